"""Which patches surprise the model.

B images, T patches on a grid of rows x columns.
"""

from pathlib import Path

import keras
import numpy as np

from nepa_keras.presets import backbone_of
from nepa_keras.visualization.figure import INK, MUTED, ORANGE, new_figure, save
from nepa_keras.visualization.patches import (
    displayable,
    draw_map,
    draw_picture,
    outline,
    patch_grid,
    predictions_and_targets,
    unit_tokens,
)


def prediction_error(model: keras.Model, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """1 - cosine of the predicted and the true embedding of every patch, (B, rows, columns) float32.

    0 is a perfect prediction, 1 one that points nowhere near, 2 the opposite. The first patch is predicted
    from CLS alone. The mean of all is 1 + the loss of a causal pretrainer.

    Args:
        model: a `NepaPretrainer`, or its backbone; it reads causally.
        images: (B, height, width, channels), normalised floats.

    Raises:
        ValueError: images that do not fit.
    """
    grid = patch_grid(backbone_of(model), images)
    predicted, true = predictions_and_targets(model, images, batch_size)
    errors = 1.0 - np.sum(unit_tokens(predicted) * unit_tokens(true), axis=-1)
    return errors.reshape(-1, *grid)


def plot_prediction_error(
    model: keras.Model, images: np.ndarray, png_path: str | Path, most: int = 3
) -> None:
    """Draws each image, and over it how badly each patch was predicted; the worst ones are framed.

    Args:
        model: see `prediction_error`.
        images: (B, height, width, channels), normalised floats; a few.
        png_path: picture to write.
        most: patches to frame in each image.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: see `prediction_error`.
    """
    errors = prediction_error(model, images)
    _, rows, columns = errors.shape
    figure = new_figure(1.7 * len(images) + 0.8, 3.4 * rows / columns + 0.9)
    lines = figure.subplots(2, len(images), squeeze=False)
    top = float(np.quantile(errors, 0.99))
    for above, below, picture, error in zip(*lines, displayable(images), errors, strict=True):
        draw_picture(above, picture, (rows, columns))
        shown = draw_map(below, error, vmin=0, vmax=top, cmap="magma")
        for patch in np.argsort(-error.ravel(), kind="stable")[:most]:
            outline(above, patch, columns, color=ORANGE)
            outline(below, patch, columns, color=ORANGE)
        below.set_title(f"mean {error.mean():.2f}", fontsize=7, color=MUTED, y=-0.17)
    bar = figure.colorbar(shown, ax=lines[1].tolist(), shrink=0.9, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    figure.suptitle(
        "Surprise: 1 - cosine of predicted and true embedding of each patch "
        f"(framed: the {most} largest)",
        fontsize=9,
        color=INK,
    )
    save(figure, png_path)
