"""The work of `from_preset` and `save_to_preset`: names, folders and hub handles.

A folder is either ours (`config.json` with our arguments) or official (`config.json` of Hugging Face);
both hold `model.safetensors` under the official names.
"""

import inspect
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from nepa_keras.presets import official_config as official
from nepa_keras.presets.checkpoint import Checkpoint, CheckpointError, read_json
from nepa_keras.presets.folder import (
    CONFIG,
    PREPROCESSOR,
    open_checkpoint,
    write_checkpoint,
    write_preprocessor,
)
from nepa_keras.presets.hub import SCHEME, download
from nepa_keras.presets.load import load_official_tensors
from nepa_keras.presets.names import PRESETS, RELEASED, preset_config
from nepa_keras.presets.official import official_tensors

_FORMAT = "nepa_keras"
_NOT_ARGUMENTS = ("backbone", "name", "trainable", "dtype", "lora_rank")


def _class(name: object) -> Any:
    """The model class of that name, or None; from Keras' registry, as the models are above."""
    found = keras.saving.get_registered_object(f"nepa_keras>{name}")
    return found if hasattr(found, "from_preset") else None


@dataclass
class _Source:
    """What a preset says of its model."""

    name: str
    kind: str  # name of its class
    backbone: dict
    arguments: dict = field(default_factory=dict)  # of the model around the backbone
    official_config: dict | None = None
    folder: Path | None = None


def _find(preset: str | Path, load_weights: bool, ema: bool) -> _Source:
    name = str(preset)
    if name in PRESETS and not load_weights:
        return _Source(name, "NepaBackbone", preset_config(name))
    if name in PRESETS and name not in RELEASED:
        raise ValueError(
            f"The preset {name!r} names an architecture without released weights; pass "
            f"load_weights=False, or one of {', '.join(RELEASED)}."
        )
    if name in RELEASED:
        name = RELEASED[name].handle
    if name.startswith(SCHEME):
        return _read(download(name, ema, load_weights), name)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ValueError(
            f"There is no preset or folder {name!r}; presets are {', '.join(PRESETS)}."
        )
    return _read(folder, name)


def _read(folder: Path, name: str) -> _Source:
    config = read_json(folder / CONFIG)
    if "model_type" in config:
        return _official_source(folder, name, config)
    if config.get("format") != _FORMAT or _class(config.get("class")) is None:
        raise CheckpointError(
            f"{folder / CONFIG} is neither of this library nor of an official checkpoint."
        )
    backbone, arguments = config.get("backbone"), config.get("arguments")
    if not isinstance(backbone, dict) or not isinstance(arguments, dict):
        raise CheckpointError(f"{folder / CONFIG} lacks the arguments of the model.")
    return _Source(name, config["class"], backbone, arguments, None, folder)


def _official_source(folder: Path, name: str, config: dict) -> _Source:
    try:
        backbone = official.backbone_arguments(config)
        if not official.is_classifier(config):
            return _Source(name, "NepaPretrainer", backbone, {}, config, folder)
        names = official.class_names(config)
        arguments = {
            "num_classes": len(names),
            "class_names": names,
            "pooling": "mean" if config.get("add_pooling_layer", True) else "last",
            "use_causal_mask": config["is_causal"],
        }
        return _Source(name, "NepaImageClassifier", backbone, arguments, config, folder)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None


def load_preset(
    model_class: type[keras.Model],
    preset: str | Path,
    load_weights: bool = True,
    ema: bool = False,
    fold_layer_scale: bool = False,
    lora_rank: int | None = None,
    **overrides,
) -> keras.Model:
    """A model of `model_class` from a preset; see `PresetMixin.from_preset`."""
    source = _find(preset, load_weights, ema)
    kind = model_class.__name__
    backbone_arguments, arguments = dict(source.backbone), {}
    if kind == source.kind:
        arguments = dict(source.arguments)
    own, rest = _split(model_class, overrides)
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
    if not backbone_arguments.get("use_mask_token"):
        rules.add("drop_mask_token")
    elif "use_mask_token" in rest:
        rules.add("new_mask_token")
    folder = source.folder if load_weights else None
    tensors = None if folder is None else open_checkpoint(folder, ema)
    try:
        if tensors is not None:
            _check_size(backbone_arguments, tensors)
        model = backbone = _class("NepaBackbone").from_config(backbone_arguments)
        if model_class is not _class("NepaBackbone"):
            model = model_class(backbone, **arguments | own)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source.name}: {error}") from None
    if folder is not None and tensors is not None:
        report = model.load_report = load_official_tensors(model, tensors, rules)
        if kind == source.kind and "num_classes" not in own:
            report.config = source.official_config
        if (folder / PREPROCESSOR).is_file():
            report.preprocessor = read_json(folder / PREPROCESSOR)
    if lora_rank is not None:
        backbone.enable_lora(lora_rank)
    return model


def _check_size(arguments: dict, tensors: Checkpoint) -> None:
    """Refuses a configuration far larger than its weights before memory is taken for it."""
    names = ("hidden_dim", "num_layers", "mlp_dim")
    parameters = inspect.signature(_class("NepaBackbone").__init__).parameters
    width, layers, inner = (arguments.get(n, parameters[n].default) for n in names)
    described = layers * width * (4 * width + 2 * inner)
    held = sum(math.prod(entry.shape) for entry in tensors.entries.values())
    if described > 2 * held + 10**6:
        raise CheckpointError(
            f"the configuration describes a model of more than {described:,} parameters, the weights "
            f"hold {held:,} numbers."
        )


def model_class(preset: str | Path) -> type[keras.Model]:
    """The class of the model that a preset holds."""
    name = RELEASED[str(preset)].handle if str(preset) in RELEASED else preset
    return _class(_find(name, load_weights=False, ema=False).kind)


def _split(model_class: type[keras.Model], overrides: dict) -> tuple[dict, dict]:
    """Overrides of the model around the backbone, and those of the backbone."""
    backbone_class = _class("NepaBackbone")
    ours = set(inspect.signature(model_class.__init__).parameters) - {"self", "backbone", "kwargs"}
    if model_class is backbone_class:
        ours = set()
    theirs = set(inspect.signature(backbone_class.__init__).parameters) - {"self", "kwargs"}
    if unknown := set(overrides) - ours - theirs - {"dtype", "name"}:
        raise ValueError(
            f"{model_class.__name__} has no argument {', '.join(sorted(unknown))}; there are "
            f"{', '.join(sorted(ours | theirs))}."
        )
    if model_class is not backbone_class:
        ours.add("name")
    own = {k: v for k, v in overrides.items() if k in ours}
    return own, {k: v for k, v in overrides.items() if k not in ours}


def _head_rules(source: _Source, kind: str, arguments: dict, own: dict, backbone: dict) -> set[str]:
    """Rules for a model with a head from `source`; changes the arguments that the conversion changes."""
    names = own.get("class_names")
    if names is not None:
        own.setdefault("num_classes", len(names))
    if source.kind == kind:
        if own.get("num_classes", arguments.get("num_classes")) == arguments.get("num_classes"):
            return set()
        arguments.pop("class_names", None)
        return {"new_head"}
    if "num_classes" not in own:
        raise ValueError(f"{source.name} was trained without these classes; pass num_classes=.")
    if backbone.get("qk_norm", True) and not backbone.get("qk_norm_scale", False):
        backbone["qk_norm_scale"] = True  # as the official conversion
        return {"new_head", "qk_norm_scale_ones"}
    return {"new_head"}


def backbone_of(model: keras.Model) -> keras.Model:
    """The backbone of a model, or the model itself if it is one."""
    return getattr(model, "backbone", model)


def save_preset(model: keras.Model, folder: str | Path) -> None:
    """Writes a model into a folder; see `PresetMixin.save_to_preset`."""
    backbone = backbone_of(model)
    config = {
        "format": _FORMAT,
        "class": type(model).__name__,
        "arguments": {} if backbone is model else _arguments(model),
        "backbone": _arguments(backbone) | {"dtype": backbone.dtype_policy.name},
    }
    write_checkpoint(folder, config, official_tensors(model))
    if preprocessor := of_source(model, "preprocessor"):
        write_preprocessor(preprocessor, folder)


def of_source(model: keras.Model, name: str) -> Any:
    """An attribute of the model's `load_report`; None for a model that was not loaded."""
    return getattr(getattr(model, "load_report", None), name, None)


def _arguments(model: keras.Model) -> dict:
    return {k: v for k, v in model.get_config().items() if k not in _NOT_ARGUMENTS}


def preprocessor_config(preset: str | Path) -> dict:
    """The `preprocessor_config.json` of a released preset, a folder or a hub handle."""
    name = RELEASED[str(preset)].handle if str(preset) in RELEASED else str(preset)
    folder = download(name, load_weights=False) if name.startswith(SCHEME) else Path(name)
    return read_json(folder.expanduser() / PREPROCESSOR)
