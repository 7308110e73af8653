"""Where the predicted embedding finds its match in the image (SPEC section 7, b).

B images, T patches on a grid of rows x columns, Q query patches, D width.
"""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from nepa_keras.presets import backbone_of
from nepa_keras.visualization.figure import INK, ORANGE, new_figure, save
from nepa_keras.visualization.patches import displayable, outline, patch_grid, unit_tokens


def predicted_similarity(
    model: keras.Model,
    images: np.ndarray,
    queries: Sequence[int],
    temperature: float = 0.1,
    top_p: float | None = None,
) -> np.ndarray:
    """How similar the embedding predicted after each query patch is to every input patch.

    softmax over patches of cos(predicted embedding, input embedding) / temperature, under the
    causal mask. With temperature 1 these are the maps that the authors draw.

    Args:
        model: a `NepaPretrainer`, or its `NepaBackbone`.
        images: (B, height, width, channels), normalised floats.
        queries: patches, counted row by row from 0; what follows the last one is never trained.
        temperature: of the softmax.
        top_p: keep only the most similar patches that hold this share, see `top_p_filter`.

    Returns:
        Float32 (B, Q, rows, columns), each map sums to 1.

    Raises:
        ValueError: a query that is no patch, or images that do not fit.
    """
    backbone = backbone_of(model)
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}.")
    rows, columns = patch_grid(backbone, images)
    asked = np.asarray(queries, "int64")
    if asked.size == 0 or asked.min() < 0 or asked.max() >= rows * columns:
        raise ValueError(
            f"queries must be patches 0 to {rows * columns - 1} of this {rows}x{columns} grid, got "
            f"{asked.tolist()}."
        )
    out = backbone(np.asarray(images, "float32"), training=False, causal=True)
    # Token 0 is CLS, so patch t is token 1 + t.
    predicted = unit_tokens(out["sequence_output"])[:, 1 + asked]  # (B, Q, D)
    patches = unit_tokens(out["embeddings"])[:, 1:]  # (B, T, D)
    cosines = np.einsum("bqd,btd->bqt", predicted, patches)
    weights = np.exp((cosines - cosines.max(axis=-1, keepdims=True)) / temperature)
    weights /= weights.sum(axis=-1, keepdims=True)
    if top_p is not None:
        weights = top_p_filter(weights, top_p)
    return weights.reshape(*weights.shape[:2], rows, columns)


def top_p_filter(weights: np.ndarray, top_p: float) -> np.ndarray:
    """Keeps the fewest largest weights of the last axis that hold `top_p`, scaled to sum to 1.

    Raises:
        ValueError: top_p outside (0, 1].
    """
    if not 0.0 < top_p <= 1.0:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}.")
    order = np.argsort(-weights, axis=-1, kind="stable")
    descending = np.take_along_axis(weights, order, axis=-1)
    # A weight stays if those above it do not hold top_p yet.
    kept = np.where(np.cumsum(descending, axis=-1) - descending < top_p, descending, 0.0)
    filtered = np.zeros_like(weights)
    np.put_along_axis(filtered, order, kept, axis=-1)
    return filtered / filtered.sum(axis=-1, keepdims=True)


def plot_similarity(
    model: keras.Model,
    images: np.ndarray,
    png_path: str | Path,
    queries: Sequence[int] | None = None,
    temperature: float = 0.1,
    top_p: float | None = None,
) -> None:
    """Draws a row per image: for each query patch the image and the map of `predicted_similarity`.

    The query is outlined in orange, the true next patch dashed in white.

    Args:
        model: a `NepaPretrainer`, or its `NepaBackbone`.
        images: (B, height, width, channels), normalised floats; a few.
        png_path: picture to write.
        queries: patches, counted row by row from 0; default three down the middle.
        temperature, top_p: see `predicted_similarity`.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: see `predicted_similarity`.
    """
    backbone = backbone_of(model)
    rows, columns = patch_grid(backbone, images)
    if queries is None:
        lines = (rows // 4, rows // 2, 3 * rows // 4)
        last = rows * columns - 2
        queries = sorted({min(row * columns + (columns - 1) // 2, last) for row in lines})
    maps = predicted_similarity(model, images, queries, temperature, top_p)
    pictures = displayable(images)
    figure = new_figure(2.9 * len(queries), 1.55 * len(images) + 0.8)
    grid = figure.subplots(len(images), 2 * len(queries), squeeze=False)
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)  # one patch is one unit
    for line, picture, image_maps in zip(grid, pictures, maps, strict=True):
        for q, (query, weights) in enumerate(zip(queries, image_maps, strict=True)):
            left, right = line[2 * q], line[2 * q + 1]
            left.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=extent)
            shown = right.imshow(weights, cmap="viridis", vmin=0, extent=extent)
            for axes in (left, right):
                outline(axes, query, columns, color=ORANGE)
                axes.set_axis_off()
            if query + 1 < rows * columns:
                outline(right, query + 1, columns, color="white", linestyle=(0, (2, 1.5)))
            bar = figure.colorbar(shown, ax=right, shrink=0.8, pad=0.03, ticks=[0, weights.max()])
            bar.ax.set_yticklabels(["0", f"{weights.max():.2f}"], fontsize=6, color=INK)
            bar.outline.set_visible(False)
    for q, query in enumerate(queries):
        row, column = divmod(int(query), columns)
        grid[0, 2 * q].set_title(f"row {row + 1}, column {column + 1}", fontsize=8, color=INK)
        grid[0, 2 * q + 1].set_title("prediction", fontsize=8, color=INK)
    figure.suptitle(
        "Predicted next embedding against the image's patches: softmax of cosine / "
        f"{temperature:g}\norange: query patch, dashed: true next patch",
        fontsize=9,
        color=INK,
    )
    save(figure, png_path)
