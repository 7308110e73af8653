"""Checks of the arguments that a `config.json` gives a model, before anything is built."""

import inspect
import math
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from nepa_keras.presets.checkpoint import Checkpoint, CheckpointError

_LARGEST_INTEGER = 2**32 - 1  # the largest seed
_MOST_BLOCKS = 4096
# Limits for a model without weights to compare with.
_LARGEST_ALONE = 2**33  # parameters: 34 GB in float32
_LONGEST_ALONE = 2**20  # length of an axis of the embedding
_WORDS: dict[object, str] = {
    bool: "true or false",
    int: f"a whole number up to {_LARGEST_INTEGER}",
    float: "a number",
    str: "a text",
    types.NoneType: "null",
    keras.layers.Layer: "the configuration of a layer",
}


def check_arguments(model_class: type[keras.Model], arguments: dict) -> None:
    """Compare arguments read from JSON with the annotations of a model's arguments.

    Raises:
        ValueError: the model has no such argument, or the value has another type.
    """
    kinds = typing.get_type_hints(model_class.__init__) | {"dtype": str}
    for name, value in arguments.items():
        if name not in kinds:
            raise ValueError(f"{model_class.__name__} has no argument {name!r}.")
        if not _fits(value, kinds[name]):
            words = _describe(kinds[name])
            raise ValueError(f"{name} must be {words}, is {repr(value)[:80]}.")


def _fits(value: object, kind: object) -> bool:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return any(_fits(value, part) for part in parts)
    if origin in (tuple, Sequence):
        return isinstance(value, list) and all(_fits(item, parts[0]) for item in value)
    if kind is int:
        return type(value) is int and abs(value) <= _LARGEST_INTEGER
    if kind is float:
        return type(value) in (int, float) and math.isfinite(typing.cast(float, value))
    if kind is keras.layers.Layer:
        return isinstance(value, dict)
    return type(value) is kind


def _describe(kind: object) -> str:
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is types.UnionType:
        return " or ".join(map(_describe, parts))
    return f"a list, each {_describe(parts[0])}" if parts else _WORDS[kind]


def read_embedding(config: object) -> keras.layers.Layer:
    """Create the layer of a configuration, unbuilt: its "build_config" is ignored, as building takes memory.

    Raises:
        ValueError: the configuration is not of a layer.
    """
    try:
        layer = keras.saving.deserialize_keras_object(_unbuilt(config))
    except Exception as error:  # Keras raises whatever a wrong configuration causes
        raise ValueError(
            f"embedding cannot be read: {(str(error) or repr(error)).splitlines()[0]}"
        ) from None
    if not isinstance(layer, keras.layers.Layer):
        raise ValueError(f"embedding must be {_WORDS[keras.layers.Layer]}, is {repr(config)[:80]}.")
    return layer


def _unbuilt(config: Any) -> Any:
    if isinstance(config, dict):
        return {key: _unbuilt(value) for key, value in config.items() if key != "build_config"}
    return [_unbuilt(value) for value in config] if isinstance(config, list) else config


def shape_of_size(
    image_size: int | Sequence[int], backbone_class: type[keras.Model], backbone: dict
) -> tuple[int, ...]:
    """`image_shape` of a backbone for another image size, with the same channels.

    Args:
        image_size: side, or (height, width).
        backbone_class: class of the backbone, for its defaults.
        backbone: arguments of the backbone.

    Raises:
        ValueError: the size is invalid, or the backbone is not for images.
    """
    known = inspect.signature(backbone_class.__init__).parameters
    shape = backbone.get("image_shape", known["image_shape"].default)
    if backbone.get("embedding") is not None:
        raise ValueError(
            f"image_size={image_size} is for images, but the model takes inputs of shape {tuple(shape)}; "
            "pass image_shape instead."
        )
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise ValueError(f"image_size must be a side or (height, width), got {image_size!r}.")
    return (*size, shape[-1])


def check_size(
    backbone_class: type[keras.Model], backbone: dict, model: dict, tensors: Checkpoint | None
) -> None:
    """Refuse a model that is far larger than its weights, before memory is allocated for it.

    Args:
        backbone_class: class of the backbone, for its defaults.
        backbone: arguments of the backbone.
        model: arguments of the model around the backbone.
        tensors: the weights; None for a model with fresh weights.

    Raises:
        CheckpointError: the model is too large; the message has the sizes.
    """
    known = inspect.signature(backbone_class.__init__).parameters
    names = ("hidden_dim", "num_layers", "mlp_dim", "patch_size", "image_shape")
    sizes = {name: backbone.get(name, known[name].default) for name in names}
    sizes |= {name: model[name] for name in ("num_classes", "channels") if model.get(name)}
    width, layers, inner, patch, shape = (sizes[name] for name in names)
    embedding = backbone.get("embedding")
    has_positions = backbone.get("position_embedding") is not None
    head = sizes.get("channels", 0)
    described = layers * width * (4 * width + 2 * inner) + width * sizes.get("num_classes", 0)
    described += 9 * head * (head + width)
    if embedding is None:
        described += patch**2 * shape[-1] * width
        if has_positions:
            described += math.prod(side // max(patch, 1) for side in shape[:-1]) * width
    if tensors is None:
        most, longest = _LARGEST_ALONE, _LONGEST_ALONE
        words = f"at most {most:,} are built from a file"
    else:
        held = sum(math.prod(entry.shape) for entry in tensors.entries.values())
        most, longest = 2 * held + 10**7, held + 2**16
        words = f"the weights hold {held:,} numbers"
    if described > most or layers > _MOST_BLOCKS:
        shown = ", ".join(f"{name}={value}" for name, value in sizes.items())
        raise CheckpointError(
            f"the configuration describes a model of more than {described:,} parameters ({shown}); {words}."
        )
    if isinstance(embedding, dict):
        # An unbuilt layer's weights are unknown: the two largest numbers bound most kernels.
        inside = sorted([(shape[-1], "image_shape"), *_integers(embedding)], reverse=True)[:2]
        largest, name = inside[0]
        if largest > longest or math.prod(number for number, _ in inside) > most:
            raise CheckpointError(f"embedding: {name} is {largest:,}; {words}.")
        if has_positions and (cells := _cells(embedding, shape)) * width > most:
            raise CheckpointError(
                f"embedding: it returns {cells:,} cells, each with a position of width {width}; {words}."
            )


def _cells(embedding: dict, shape: Sequence[int]) -> int:
    """Number of cells that a configuration's layer returns for an input; 0 if it is not defined."""
    try:
        made = read_embedding(embedding).compute_output_shape((None, *shape))
    except NotImplementedError:
        return 0
    return math.prod(size or 0 for size in made[1:-1])


def _integers(config: object, name: str = "") -> Iterator[tuple[int, str]]:
    """Yield the absolute values of all integers in a configuration, each with its key."""
    if type(config) is int:
        yield abs(config), name
    elif isinstance(config, dict):
        for key in config.keys() - {"seed"}:
            yield from _integers(config[key], str(key))
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _integers(value, name)


def split_arguments(
    model_class: type[keras.Model], backbone_class: type[keras.Model], overrides: dict
) -> tuple[dict, dict]:
    """Split overrides into those of the model around the backbone and those of the backbone.

    Raises:
        ValueError: neither has such an argument.
    """
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
