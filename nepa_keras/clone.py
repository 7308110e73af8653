"""Copy of a backbone in another configuration, with weights matched by path."""

import keras
from keras import ops


def clone_backbone(backbone: keras.Model, **overrides) -> keras.Model:
    """Create a backbone with the configuration of another, except for `overrides`, and its weights.

    Weights are matched by path. A QK-norm scale that the source lacks starts at one, as in the official
    conversion, and learned positions are resized to the clone's `image_shape`. Any other weight without a
    counterpart is an error.

    Args:
        backbone: the `NepaBackbone` to copy.
        **overrides: arguments of `NepaBackbone` to change.

    Raises:
        ValueError: a weight of either backbone has no counterpart, or one of another shape.

    Example:
        >>> bidirectional = clone_backbone(backbone, use_causal_mask=False)
    """
    clone = type(backbone).from_config({**backbone.get_config(), **overrides})
    source = {relative_path(v): v for v in _without_seeds(backbone)}
    if backbone.positions is not None and clone.positions is not None:
        table = backbone.positions.table(clone.positions.grid)
        source[relative_path(backbone.positions.vectors)] = table
    for variable in _without_seeds(clone):
        path = relative_path(variable)
        value = source.pop(path, None)
        if value is not None:
            if tuple(value.shape) != tuple(variable.shape):
                raise ValueError(
                    f"{path} has shape {tuple(value.shape)} in the source and "
                    f"{tuple(variable.shape)} in the clone; drop the override that changes it."
                )
            # Copied: on JAX both would share one buffer, which a training step of either donates.
            variable.assign(ops.copy(value))
        elif not path.endswith(("q_norm/gamma", "k_norm/gamma")):
            raise ValueError(
                f"The clone has {path}, which the source backbone lacks; drop the override that adds it."
            )
    source.pop("patch_embedding/mask_token", None)  # only masked pretraining uses it
    if source:
        raise ValueError(f"The clone has no place for {', '.join(source)} of the source backbone.")
    return clone


def _without_seeds(backbone: keras.Model) -> list:
    """Return all weights but random states; includes frozen ones and moving statistics."""
    return [v for v in backbone.weights if not v.path.endswith("seed_generator_state")]


def relative_path(variable: keras.Variable) -> str:
    """Path of a variable below its backbone, whatever that is called; outside a backbone the full path."""
    parts = variable.path.split("/")
    names = ("patch_embedding", "position_embedding", "block_", "norm")
    first = next((i for i, part in enumerate(parts) if part.startswith(names)), 0)
    return "/".join(parts[first:])
