"""Similarity of the predicted next embedding to the patches of the image (arXiv 2512.16922, figures 5, 8, 9).

B batch, T patches on a grid of rows x columns, D width.
"""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from nepa_keras.presets import backbone_of
from nepa_keras.visualization.patches import (
    displayable,
    draw_overlay,
    draw_picture,
    draw_share_bar,
    outline,
    outline_next,
    patch_grid,
    share_norm,
    unit_tokens,
)
from nepa_keras.visualization.theme import (
    INK,
    TEXT,
    check_captions,
    headline,
    new_figure,
    save,
    write_caption,
)


def predicted_similarity(
    model: keras.Model,
    images: np.ndarray,
    queries: Sequence[int],
    temperature: float = 0.1,
    top_p: float | None = None,
) -> np.ndarray:
    """Compute the similarity of the embedding predicted after each query patch to every patch.

    softmax over patches of cos(predicted embedding, input embedding) / temperature, under the
    causal mask. With temperature 1 these are the maps that the authors draw.

    Args:
        model: a `NepaPretrainer`, or its `NepaBackbone`.
        images: (B, height, width, channels), normalised floats.
        queries: patches, counted row by row from 0; what follows the last one is never trained.
        temperature: of the softmax.
        top_p: keep only the most similar patches that hold this share, see `top_p_filter`.

    Returns:
        Float32 (B, queries, rows, columns), each map sums to 1.

    Raises:
        ValueError: a query that is no patch, or images that do not fit.

    Example:
        >>> visualization.predicted_similarity(model, images, queries=[10, 24]).shape
        (16, 2, 7, 7)
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
    """Keep the fewest largest weights of the last axis that hold `top_p`, scaled to sum to 1.

    Raises:
        ValueError: top_p outside (0, 1].

    Example:
        >>> visualization.top_p_filter(np.array([0.125, 0.25, 0.625]), top_p=0.5)
        array([0., 0., 1.])
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
    captions: Sequence[str] = (),
) -> None:
    """Draw a row for each image: the image, and over it a map of `predicted_similarity` for each query.

    The query is outlined in orange, the true next patch dashed in white. All maps have one scale.

    Args:
        model: a `NepaPretrainer`, or its `NepaBackbone`.
        images: (B, height, width, channels), normalised floats; a few.
        png_path: picture to write.
        queries: patches, counted row by row from 0; default three down the middle.
        temperature, top_p: see `predicted_similarity`.
        captions: text below each image, such as its class and the name of its file.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: captions of another number than images; or see `predicted_similarity`.

    Example:
        >>> visualization.plot_similarity(model, images[:2], "similarity.png", queries=[10, 24])
    """
    backbone = backbone_of(model)
    rows, columns = patch_grid(backbone, images)
    captions = check_captions(captions, len(images))
    if queries is None:
        lines = (rows // 4, rows // 2, 3 * rows // 4)
        last = rows * columns - 2
        queries = sorted({min(row * columns + (columns - 1) // 2, last) for row in lines})
    maps = predicted_similarity(model, images, queries, temperature, top_p)
    even = 1.0 / (rows * columns)
    norm = share_norm(maps, even)
    pictures = displayable(images)
    height = images.shape[1] / images.shape[2]
    figure = new_figure(
        1.6 * (1 + len(queries)) + 0.9, (1.6 * height + 0.2) * len(images) + 0.75, alike=True
    )
    grid = figure.subplots(len(images), 1 + len(queries), squeeze=False)
    for line, picture, caption, image_maps in zip(grid, pictures, captions, maps, strict=True):
        draw_picture(line[0], picture, (rows, columns))
        write_caption(line[0], caption, inches=1.6)
        for axes, query, weights in zip(line[1:], queries, image_maps, strict=True):
            shown = draw_overlay(axes, picture, weights, norm)
            outline(axes, query, columns)
            if query + 1 < rows * columns:
                outline_next(axes, query + 1, columns)
    grid[0, 0].set_title("image", fontsize=TEXT, color=INK)
    for axes, query in zip(grid[0, 1:], queries, strict=True):
        row, column = divmod(int(query), columns)
        title = f"after row {row + 1}, column {column + 1}"
        axes.set_title(title, fontsize=TEXT, color=INK)
    label = f"share of each patch: softmax of cosine / {temperature:g}"
    draw_share_bar(
        figure, shown, grid.ravel().tolist(), even, label, fraction=0.04, pad=0.01, aspect=30
    )
    headline(
        figure,
        "How much each patch is like the predicted next embedding\n"
        "orange: query patch, dashed: the true next patch",
    )
    save(figure, png_path)
