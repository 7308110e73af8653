"""Implementation of `from_preset` and `save_to_preset` for names, folders and hub handles.

A folder is ours (`config.json` with our arguments) or official (`config.json` of Hugging Face); both hold
`model.safetensors` with official names. A checkpoint of a run is a folder of ours that holds the training
state instead (`training_state`).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from nepa_keras.presets import official_config as official
from nepa_keras.presets.arguments import (
    check_arguments,
    check_size,
    read_embedding,
    shape_of_size,
    split_arguments,
)
from nepa_keras.presets.checkpoint import CheckpointError, read_json, without_prefix
from nepa_keras.presets.folder import (
    CONFIG,
    PREPROCESSOR,
    open_checkpoint,
    preprocessor_of_size,
    what_to_give,
    write_checkpoint,
    write_preprocessor,
)
from nepa_keras.presets.hub import SCHEME, download
from nepa_keras.presets.load import load_official_tensors
from nepa_keras.presets.names import PRESETS, RELEASED, preset_config
from nepa_keras.presets.official import official_tensors
from nepa_keras.presets.rewriting import resize_positions

_FORMAT = "nepa_keras"
_NOT_ARGUMENTS = ("backbone", "name", "trainable", "dtype", "lora_rank")


def _class(name: object) -> Any:
    """Return a model class by name, or None; from Keras' registry, as this module must not import models."""
    found = keras.saving.get_registered_object(f"nepa_keras>{name}")
    return found if hasattr(found, "from_preset") else None


@dataclass
class _Source:
    """Content of a preset."""

    name: str
    kind: str  # class name of the model
    backbone: dict
    arguments: dict = field(default_factory=dict)  # arguments of the model around the backbone
    official_config: dict | None = None
    added: dict = field(default_factory=dict)  # defaults for keys that the configuration omits
    folder: Path | None = None


def _find(preset: str | Path, load_weights: bool, ema: bool) -> _Source:
    name = str(preset)
    if name in PRESETS and not load_weights:
        return _Source(name, "NepaBackbone", preset_config(name))
    return _read(_folder(name, ema, load_weights), name, ema)


def _folder(name: str, ema: bool = False, load_weights: bool = True) -> Path:
    """Return the local folder of a released preset, a hub handle, or a path.

    Raises:
        ValueError: there is none; the message says what to give instead.
    """
    if name in PRESETS and name not in RELEASED:
        raise ValueError(
            f"The preset {name!r} is an architecture without released weights; use load_weights=False for "
            f"fresh weights, or a preset that has weights: {', '.join(RELEASED)}."
        )
    name = RELEASED[name].handle if name in RELEASED else name
    if name.startswith(SCHEME):
        return download(name, ema, load_weights)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.suffix == ".keras":
        raise ValueError(
            f"{name} is a .keras file; load it with keras.saving.load_model, and save_to_preset then writes "
            "the folder that is needed here."
        )
    if path.is_file():
        raise ValueError(f"{name} is a file; give its folder, which must have a {CONFIG}.")
    raise ValueError(f"There is no preset or folder {name!r}; presets are {', '.join(PRESETS)}.")


def _read(folder: Path, name: str, ema: bool) -> _Source:
    if not (folder / CONFIG).exists():
        raise CheckpointError(f"{folder} has no {CONFIG}{what_to_give(folder)}.")
    config = read_json(folder / CONFIG)
    if "model_type" in config:
        return _official_source(folder, name, config, ema)
    kind = _class(config.get("class"))
    if config.get("format") != _FORMAT or kind is None:
        raise CheckpointError(
            f"{folder / CONFIG} belongs neither to this library nor to an official checkpoint."
        )
    backbone, arguments = config.get("backbone"), config.get("arguments")
    if not isinstance(backbone, dict) or not isinstance(arguments, dict):
        raise CheckpointError(f"{folder / CONFIG} lacks the arguments of the model.")
    try:
        check_arguments(_class("NepaBackbone"), backbone)
        check_arguments(kind, arguments)
    except ValueError as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from None
    return _Source(name, config["class"], backbone, arguments, folder=folder)


def _official_source(folder: Path, name: str, given: dict, ema: bool) -> _Source:
    try:
        config = official.with_defaults(given, _shapes(folder, ema))
        added = {key: value for key, value in config.items() if given.get(key, ...) != value}
        backbone = official.backbone_arguments(config)
        if not official.is_classifier(config):
            kind = "NepaBackbone" if official.is_bare(config) else "NepaPretrainer"
            return _Source(name, kind, backbone, {}, given, added, folder)
        names = official.class_names(config)
        arguments = {
            "num_classes": len(names),
            "class_names": names,
            "pooling": "mean" if config["add_pooling_layer"] else "last",
            "use_causal_mask": config["is_causal"],
            "multi_label": official.is_multi_label(config),
        }
        return _Source(name, "NepaImageClassifier", backbone, arguments, given, added, folder)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None


def _shapes(folder: Path, ema: bool) -> dict[str, tuple[int, ...]] | None:
    """Return the shapes of the tensors in a folder by name; None if none can be read."""
    try:
        entries = without_prefix(open_checkpoint(folder, ema)).entries
    except CheckpointError:
        return None  # reported when they are loaded
    return {name: entry.shape for name, entry in entries.items()}


def load_preset(
    model_class: type[keras.Model],
    preset: str | Path,
    load_weights: bool = True,
    ema: bool = False,
    fold_layer_scale: bool = False,
    lora_rank: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    **overrides,
) -> keras.Model:
    """Create a model of `model_class` from a preset; see `PresetMixin.from_preset`."""
    source = _find(preset, load_weights, ema)
    kind = model_class.__name__
    backbone_arguments, arguments = dict(source.backbone), {}
    if kind == source.kind:
        arguments = dict(source.arguments)
    own, rest = split_arguments(model_class, _class("NepaBackbone"), overrides)
    rules = set()
    if model_class.has_head:
        rules |= _head_rules(source, kind, arguments, own, backbone_arguments)
    elif _class(source.kind).has_head:
        rules.add("drop_head")
    if fold_layer_scale:
        rules.add("fold_layer_scale")
        backbone_arguments["layer_scale"] = None
    if rest.get("qk_norm_scale"):
        rules.add("qk_norm_scale_ones")
    backbone_arguments |= rest
    if image_size is not None:
        if "image_shape" in rest:
            raise ValueError("image_size and image_shape both set the size; pass only one of them.")
        shape = shape_of_size(image_size, _class("NepaBackbone"), backbone_arguments)
        backbone_arguments["image_shape"] = shape
    if not backbone_arguments.get("use_mask_token"):
        rules.add("drop_mask_token")
    elif "use_mask_token" in rest:
        rules.add("new_mask_token")
    if source.official_config is not None:
        rules |= official.rules(source.official_config, backbone_arguments)
    folder = source.folder if load_weights else None
    tensors = None if folder is None else without_prefix(open_checkpoint(folder, ema))
    try:
        check_size(_class("NepaBackbone"), backbone_arguments, arguments | own, tensors)
        if isinstance(backbone_arguments.get("embedding"), dict):
            backbone_arguments["embedding"] = read_embedding(backbone_arguments["embedding"])
        model = backbone = _class("NepaBackbone").from_config(backbone_arguments)
        if model_class is not _class("NepaBackbone"):
            model = model_class(backbone, **arguments | own)
    except (TypeError, ValueError) as error:
        left_out = ", ".join(source.added)
        more = f" (config.json omits {left_out}: defaults are used)" if left_out else ""
        raise ValueError(f"{source.name}: {error}{more}") from None
    if folder is not None and tensors is not None:
        shape = source.backbone.get("image_shape", backbone.image_shape)
        tensors, resized = resize_positions(tensors, backbone, shape)
        report = model.load_report = load_official_tensors(model, tensors, rules)
        if source.added:
            added = (f"{key} {repr(value)[:60]}" for key, value in source.added.items())
            report.details["config_defaults"] = ", ".join(added)
        report.details |= resized
        if kind == source.kind and "new_head" not in rules:
            report.config = source.official_config
        if (folder / PREPROCESSOR).is_file():
            report.preprocessor = preprocessor_of_size(
                read_json(folder / PREPROCESSOR), shape, backbone.image_shape
            )
    if lora_rank is not None:
        backbone.enable_lora(lora_rank)
    return model


def model_class(preset: str | Path) -> type[keras.Model]:
    """Return the class of the model in a preset."""
    name = RELEASED[str(preset)].handle if str(preset) in RELEASED else preset
    return _class(_find(name, load_weights=False, ema=False).kind)


def _head_rules(source: _Source, kind: str, arguments: dict, own: dict, backbone: dict) -> set[str]:
    """Return rules for a model with a head; update the arguments that the conversion changes."""
    names = own.get("class_names")
    if names is not None:
        own.setdefault("num_classes", len(names))
    if source.kind == kind:
        if own.get("num_classes", arguments.get("num_classes")) == arguments.get("num_classes"):
            return set()
        arguments.pop("class_names", None)
        return {"new_head"}
    if "num_classes" not in own:
        raise ValueError(f"{source.name} was trained without classes; pass num_classes=...")
    if backbone.get("qk_norm", True) and not backbone.get("qk_norm_scale", False):
        backbone["qk_norm_scale"] = True  # as in the official conversion
        return {"new_head", "qk_norm_scale_ones"}
    return {"new_head"}


def backbone_of(model: keras.Model) -> keras.Model:
    """Return the backbone of a model, or the model itself if it is a backbone."""
    return getattr(model, "backbone", model)


def model_config(model: keras.Model) -> dict:
    """Return the content of the `config.json` that `save_to_preset` writes."""
    backbone = backbone_of(model)
    written = backbone if model.training_only else model
    return {
        "format": _FORMAT,
        "class": type(written).__name__,
        "arguments": {} if written is backbone else _arguments(model),
        "backbone": _arguments(backbone) | {"dtype": backbone.dtype_policy.name},
    }


def save_preset(model: keras.Model, folder: str | Path) -> None:
    """Write a model into a folder; see `PresetMixin.save_to_preset`."""
    write_checkpoint(folder, model_config(model), official_tensors(model))
    if preprocessor := preprocessor_of_source(model):
        write_preprocessor(preprocessor, folder)


def config_of_source(model: keras.Model) -> dict | None:
    """Return the official configuration that the model was loaded with, if any."""
    report = getattr(model, "load_report", None)
    return report and report.config


def preprocessor_of_source(model: keras.Model) -> dict | None:
    """Return the image preprocessing of the checkpoint the model or its backbone was loaded from, if any."""
    reports = [getattr(m, "load_report", None) for m in (model, backbone_of(model))]
    return next((r.preprocessor for r in reports if r and r.preprocessor), None)


def _arguments(model: keras.Model) -> dict:
    return {k: v for k, v in model.get_config().items() if k not in _NOT_ARGUMENTS}


def preprocessor_config(preset: str | Path) -> dict:
    """Read the `preprocessor_config.json` of a released preset, a folder or a hub handle."""
    folder = _folder(str(preset), load_weights=False)
    if not (folder / PREPROCESSOR).exists():
        raise CheckpointError(
            f"{folder} has no {PREPROCESSOR}{what_to_give(folder, PREPROCESSOR)}."
        )
    return read_json(folder / PREPROCESSOR)
