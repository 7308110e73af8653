"""The method in one picture: patches in order, attention, the predicted next embedding, the true one.

B batch, T patches on a grid of rows x columns, D width.
"""

from pathlib import Path

import keras
import numpy as np

from nepa_keras.presets import backbone_of
from nepa_keras.visualization.attention import attention_map
from nepa_keras.visualization.patch_bank import PatchBank
from nepa_keras.visualization.patches import (
    cut_patches,
    displayable,
    draw_overlay,
    draw_picture,
    outline,
    outline_next,
    patch_grid,
    predictions_and_targets,
    share_norm,
    unit_tokens,
)
from nepa_keras.visualization.similarity import predicted_similarity
from nepa_keras.visualization.theme import (
    INK,
    TEXT,
    TITLE,
    bare,
    new_figure,
    save,
    write_caption,
)


def plot_overview(
    model: keras.Model,
    image: np.ndarray,
    png_path: str | Path,
    query: int | None = None,
    bank_images: np.ndarray | None = None,
) -> None:
    """Draw the method on one image: patches, attention of one, the predicted next patch, the true one.

    Attention is the mean of heads and of the blocks but the first. The expected patch is the one of the bank
    whose embedding is nearest to the predicted one.

    Args:
        model: a `NepaPretrainer`, or its backbone; it reads causally.
        image: (height, width, channels), normalised floats.
        png_path: picture to write.
        query: patch, counted row by row from 0; default the one in the middle.
        bank_images: others, whose patches the expected one is found among; default the image itself, but
            for the true next patch.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: a query without a next patch, or an image that does not fit.

    Example:
        >>> visualization.plot_overview(model, images[0], "overview.png", query=24, bank_images=images[1:])
    """
    backbone = backbone_of(model)
    images = np.asarray(image, "float32")[None]
    rows, columns = grid = patch_grid(backbone, images)
    if query is None:
        query = rows // 2 * columns + (columns - 1) // 2
    if not 0 <= query < rows * columns - 1:
        raise ValueError(
            f"query must be a patch that another one follows, 0 to {rows * columns - 2}, got {query}."
        )
    blocks = range(min(1, backbone.num_layers - 1), backbone.num_layers)
    looks = attention_map(model, images, query, blocks=blocks, causal=True)[0]
    expects = predicted_similarity(model, images, [query])[0, 0]
    predicted, true = (x[0, query + 1] for x in predictions_and_targets(backbone, images))
    cosine = float(np.sum(unit_tokens(predicted) * unit_tokens(true)))
    bank = PatchBank(backbone, images if bank_images is None else bank_images)
    numbers = bank.nearest(predicted[None], min(2, len(bank.vectors)))[0][0]
    true_one = query + 1 if bank_images is None else None
    nearest = int(next((n for n in numbers if n != true_one), numbers[0]))
    pair = displayable(np.stack([bank.pixels[nearest], cut_patches(images, grid)[0, query + 1]]))
    picture = displayable(images)[0]

    figure = new_figure(8.0, 3.2, gap=0.05)
    spec = figure.add_gridspec(2, 4, width_ratios=[1, 1, 1, 0.5])
    first, second, third = (figure.add_subplot(spec[:, i]) for i in range(3))
    _draw_reading(first, picture, grid, query)
    hidden = np.arange(rows * columns).reshape(rows, columns) > query
    draw_overlay(second, picture, looks, share_norm(looks, 1.0 / (query + 2)), hidden)
    draw_overlay(third, picture, expects, share_norm(expects, 1.0 / (rows * columns)))
    for axes in (first, second, third):
        axes.set_anchor("N")
        outline(axes, query, columns)
        outline_next(axes, query + 1, columns)
    texts = {
        first: (
            "1  Read",
            "An image is cut into patches, here\n"
            f"{rows} x {columns}, which are read row by row\nas the words of a text.",
        ),
        second: (
            "2  Look back",
            "At each patch (orange) the model\nsees only those before it.\nBright: it looks there most.",
        ),
        third: (
            "3  Predict",
            "It predicts the embedding of the\nnext patch (dashed).\nBright: patches like the prediction.",
        ),
    }
    for axes, (title, text) in texts.items():
        axes.set_title(title, fontsize=TITLE + 2, color=INK, loc="left", fontweight="bold")
        write_caption(axes, text, size=TEXT + 0.5)
    names = ("expected: nearest real patch", f"true next patch, cosine {cosine:.2f}")
    for i, (patch, name) in enumerate(zip(pair, names, strict=True)):
        axes = figure.add_subplot(spec[i, 3])
        draw_picture(axes, patch)
        axes.set_anchor("N")
        axes.spines[:].set(
            visible=True, color=INK, linewidth=1.5, linestyle=("-", (0, (2, 1.4)))[i]
        )
        write_caption(axes, name.replace(": ", ":\n").replace(", ", "\n"), size=TEXT + 0.5)
        if i == 0:
            axes.set_title(
                "4  Compare", fontsize=TITLE + 2, color=INK, loc="left", fontweight="bold"
            )
    save(figure, png_path)


def _draw_reading(axes, picture: np.ndarray, grid: tuple[int, int], query: int) -> None:
    """Draw the image with its grid, pale behind the query, and an arrow along the rows read so far."""
    rows, columns = grid
    draw_picture(axes, picture, grid)
    for column in range(1, columns):
        axes.axvline(column - 0.5, color="white", linewidth=0.5, alpha=0.6)
    for row in range(1, rows):
        axes.axhline(row - 0.5, color="white", linewidth=0.5, alpha=0.6)
    for row in range(query // columns + 1):
        last = query % columns if row == query // columns else columns - 1
        if last:
            axes.annotate(
                "", (last, row), (0, row),
                arrowprops={"arrowstyle": "->", "color": "white", "linewidth": 0.8, "alpha": 0.9},
            )  # fmt: skip
    bare(axes)
