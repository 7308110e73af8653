"""Patches of images: their grid, their pixels, and how they are drawn.

B batch, T patches on a grid of rows x columns.
"""

import keras
import numpy as np
from keras import ops

from nepa_keras.presets import backbone_of
from nepa_keras.types import Tensor
from nepa_keras.vectors import unit
from nepa_keras.visualization.theme import (
    HIDDEN,
    QUERY,
    bare,
    percent,
    plain_bar,
    tint_map,
    tinted,
)


def patch_grid(backbone: keras.Model, images: np.ndarray) -> tuple[int, int]:
    """Rows and columns of patches of images (B, height, width, channels).

    Raises:
        ValueError: the images do not fit, or the backbone is not one of images.
    """
    grid = backbone.patch_embedding.grid(np.shape(images))
    if len(grid) != 2:
        raise ValueError(f"Pictures are of two axes; this model's tokens lie on {len(grid)}.")
    return grid


def own_mask(model: keras.Model) -> bool:
    """Return the causal mask that a model itself uses; a classifier's is not that of its backbone."""
    return getattr(model, "use_causal_mask", backbone_of(model).use_causal_mask)


def displayable(images: np.ndarray) -> np.ndarray:
    """Normalised images (..., channels) in [-1, 1] as floats in [0, 1] with one or three channels."""
    pictures = np.clip(np.asarray(images, "float32") * 0.5 + 0.5, 0.0, 1.0)
    # Of any other number than three the first channel stands for all.
    return pictures if pictures.shape[-1] == 3 else pictures[..., :1]


def cut_patches(images: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Cut images: (B, height, width, channels) -> (B, T, height / rows, width / columns, channels)."""
    batch, height, width, channels = images.shape
    rows, columns = grid
    high, wide = height // rows, width // columns
    x = images.reshape(batch, rows, high, columns, wide, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows * columns, high, wide, channels)


def join_patches(patches: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The inverse of `cut_patches`."""
    batch, _, high, wide, channels = patches.shape
    rows, columns = grid
    x = patches.reshape(batch, rows, columns, high, wide, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, rows * high, columns * wide, channels)


def predictions_and_targets(
    model: keras.Model, images: np.ndarray, batch_size: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true embeddings of each patch, predicted from all true patches before it.

    Args:
        model: a `NepaPretrainer`, or its backbone; it reads causally.
        images: (B, height, width, channels), normalised floats.

    Returns:
        Two of (B, T, D) float32.
    """
    backbone = backbone_of(model)
    shift = getattr(model, "shift", True)
    predictions, targets = [], []
    for start in range(0, len(images), batch_size):
        part = np.asarray(images[start : start + batch_size], "float32")
        out = backbone(part, training=False, causal=True)
        said = ops.convert_to_numpy(ops.cast(out["sequence_output"], "float32"))
        predictions.append(said[:, :-1] if shift else said[:, 1:])
        targets.append(ops.convert_to_numpy(ops.cast(out["embeddings"], "float32"))[:, 1:])
    return np.concatenate(predictions), np.concatenate(targets)


def unit_tokens(tokens: Tensor) -> np.ndarray:
    """Tokens of any backend as vectors of length 1 over the last axis, float32."""
    return unit(ops.convert_to_numpy(ops.cast(tokens, "float32")))


def draw_picture(axes, picture: np.ndarray, grid: tuple[int, int] | None = None) -> None:
    """Draw one `displayable` image on bare axes; with a grid, one patch is one unit."""
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=_extent(grid), aspect="auto")
    axes.set_box_aspect(picture.shape[0] / picture.shape[1])
    bare(axes)


def draw_overlay(axes, picture: np.ndarray, weights: np.ndarray, norm, hidden=None):
    """Draw a map over its image, which is grey under the map's colours.

    Args:
        axes: to draw on; one patch is one unit.
        picture: one `displayable` image.
        weights: (rows, columns).
        norm: matplotlib's, from weights to [0, 1].
        hidden: (rows, columns) bool, patches that are no part of the map and drawn pale; or None.

    Returns:
        What a colour bar is made of.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import to_rgb

    rows, columns = weights.shape
    high, wide = (
        max(1, size // cells) for size, cells in zip(picture.shape[:2], weights.shape, strict=True)
    )

    def spread(cells):
        return np.repeat(np.repeat(cells, high, axis=0), wide, axis=1)

    grey = picture.mean(axis=-1)
    mixed = tinted(grey, spread(np.asarray(norm(weights))))
    if hidden is not None:
        pale = 0.15 * grey[..., None] + 0.85 * np.array(to_rgb(HIDDEN))
        mixed = np.where(spread(hidden)[..., None], pale, mixed)
    axes.imshow(mixed, extent=_extent((rows, columns)), aspect="auto", interpolation="nearest")
    axes.set_box_aspect(picture.shape[0] / picture.shape[1])
    bare(axes)
    return ScalarMappable(norm, tint_map())


def share_norm(weights: np.ndarray, even: float):
    """A logarithmic scale of shares: from half an even share to the largest, or to 8 even shares at least.

    A model that looks everywhere alike, or expects every patch alike, has flat dark maps on it, where a
    scale from 0 to each map's own largest weight would stretch its noise to full contrast.

    Args:
        weights: all maps of one picture, so that they share the scale.
        even: share of one patch where all have the same.
    """
    from matplotlib.colors import LogNorm

    top = max(float(np.max(weights)), min(8 * even, 1.0))
    return LogNorm(even / 2, max(top, even * 1.01), clip=True)


def draw_share_bar(figure, shown, axes, even: float, label: str, **style) -> None:
    """A colour bar of `share_norm` with the even share marked."""
    top = shown.norm.vmax
    bar = figure.colorbar(shown, ax=axes, **style)
    ticks = [even, (even * top) ** 0.5, top]
    names = [f"{percent(even)}\n(even)", *(percent(tick) for tick in ticks[1:])]
    bar.set_ticks(ticks, labels=names)
    bar.minorticks_off()
    plain_bar(bar, label)


def outline(axes, patch: int, columns: int, **style) -> None:
    """Draw a frame around a patch, on axes where one patch is one unit.

    It has a light and a dark halo, so that it shows on any image, warm photographs too.

    Args:
        axes: to draw on.
        patch: counted row by row from 0.
        columns: of the grid.
        style: of matplotlib's Rectangle; by default the colour of the query.
    """
    style = {"linewidth": 1.2, "edgecolor": QUERY, **style}
    line = style["linewidth"]
    _frame(axes, patch, columns, linewidth=line + 1.6, edgecolor="black")
    _frame(axes, patch, columns, linewidth=line + 0.8, edgecolor="white")
    _frame(axes, patch, columns, **style)


def outline_next(axes, patch: int, columns: int) -> None:
    """Draw the frame of the true next patch, dashed in white on black."""
    _frame(axes, patch, columns, linewidth=2.0, edgecolor="black")
    _frame(axes, patch, columns, linewidth=1.1, edgecolor="white", linestyle=(0, (2, 1.4)))


def _frame(axes, patch: int, columns: int, **style) -> None:
    from matplotlib.patches import Rectangle

    row, column = divmod(int(patch), columns)
    frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, zorder=3, **style)
    frame.set_clip_on(False)  # at the edge of the image, too, the whole frame is seen
    axes.add_patch(frame)


def _extent(grid: tuple[int, int] | None) -> tuple[float, ...] | None:
    """Limits of axes where one patch is one unit, for `imshow`."""
    return None if grid is None else (-0.5, grid[1] - 0.5, grid[0] - 0.5, -0.5)
