"""Adaptation of checkpoints to another configuration: names, grid of positions, LayerScale."""

import math
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from nepa_keras.presets.checkpoint import Checkpoint, CheckpointError, TensorEntry, as_checkpoint
from nepa_keras.resampling import resize_grid

MODEL_PREFIX = "vit_nepa."  # prefix of backbone tensors in a model with a head or an objective
POSITIONS = f"{MODEL_PREFIX}embeddings.position_embeddings"


def with_model_prefix(checkpoint: Checkpoint) -> Checkpoint:
    """Rename the tensors of a bare backbone as in a model around it."""
    entries = {MODEL_PREFIX + name: entry for name, entry in checkpoint.entries.items()}
    return Checkpoint(entries, checkpoint.source, checkpoint.prefix)


def resize_positions(
    checkpoint: Checkpoint, backbone: keras.Model, shape: Sequence[int]
) -> tuple[Checkpoint, dict[str, str]]:
    """Resize learned positions to the grid of a backbone.

    Args:
        checkpoint: official tensors.
        backbone: backbone to load them into.
        shape: `image_shape` of the checkpoint's model.

    Returns:
        The tensors, and a description for `LoadReport.details`, empty if nothing was done.

    Raises:
        ValueError: the backbone cannot divide inputs of that shape into cells.
    """
    entry = checkpoint.entries.get(POSITIONS)
    if entry is None or backbone.positions is None:
        return checkpoint, {}
    old, new = backbone.patch_embedding.grid((None, *shape)), backbone.positions.grid
    if old == new or entry.shape[:-1] != (1, 1 + math.prod(old)):
        return checkpoint, {}

    def read():
        vectors = np.asarray(entry.read(), "float32")
        cells = resize_grid(vectors[0, 1:], old, new)
        return np.concatenate([vectors[:, :1], cells[None]], axis=1)

    resized = TensorEntry((1, 1 + math.prod(new), entry.shape[-1]), "float32", read)
    entries = {**checkpoint.entries, POSITIONS: resized}
    done = {"resize_positions": f"{old} -> {new} cells"}
    return Checkpoint(entries, checkpoint.source, checkpoint.prefix), done


def fold_layer_scale(tensors: Mapping[str, np.ndarray]) -> Checkpoint:
    """Multiply LayerScale into the dense layer before it: W <- diag(l) W, b <- l b.

    The model computes the same function.

    Raises:
        CheckpointError: a LayerScale has no dense layer, or one of another width.
    """
    checkpoint = as_checkpoint(tensors)
    entries = dict(checkpoint.entries)
    for scale_name in [n for n in entries if n.endswith("layer_scale.lambda1")]:
        prefix = scale_name.removesuffix(".output.layer_scale.lambda1")
        layer = ".output.dense" if prefix != scale_name else ".attention.output.dense"
        prefix = prefix.removesuffix(".layer_scale.lambda1")
        scale = entries.pop(scale_name)
        for kind in ("weight", "bias"):
            name = f"{prefix}{layer}.{kind}"
            if name not in entries or entries[name].shape[:1] != scale.shape:
                raise CheckpointError(
                    f"{checkpoint.source}: {scale_name!r} of shape {scale.shape} cannot be folded "
                    f"into {name!r}, which is missing or of another width."
                )
            entries[name] = _scaled_rows(entries[name], scale)
    return Checkpoint(entries, checkpoint.source)


def _scaled_rows(entry: TensorEntry, scale: TensorEntry) -> TensorEntry:
    def read():
        rows = np.asarray(scale.read(), "float32").reshape(-1, *(1,) * (len(entry.shape) - 1))
        return np.asarray(entry.read(), "float32") * rows

    return TensorEntry(entry.shape, "float32", read)
