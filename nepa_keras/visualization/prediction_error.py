"""Error of the predicted embedding of each patch.

B batch, T patches on a grid of rows x columns.
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
    outline,
    patch_grid,
    predictions_and_targets,
    unit_tokens,
)
from nepa_keras.visualization.theme import (
    check_captions,
    headline,
    new_figure,
    plain_bar,
    save,
    write_caption,
)


def prediction_error(model: keras.Model, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Compute 1 - cosine of the predicted and the true embedding of every patch, (B, rows, columns) float32.

    0 is a perfect prediction, 1 one that points nowhere near, 2 the opposite. The first patch is predicted
    from CLS alone. The mean of all is 1 + the loss of a causal pretrainer.

    Args:
        model: a `NepaPretrainer`, or its backbone; it reads causally.
        images: (B, height, width, channels), normalised floats.

    Raises:
        ValueError: images that do not fit.

    Example:
        >>> visualization.prediction_error(model, images).shape
        (16, 7, 7)
    """
    grid = patch_grid(backbone_of(model), images)
    predicted, true = predictions_and_targets(model, images, batch_size)
    errors = 1.0 - np.sum(unit_tokens(predicted) * unit_tokens(true), axis=-1)
    return errors.reshape(-1, *grid)


def plot_prediction_error(
    model: keras.Model,
    images: np.ndarray,
    png_path: str | Path,
    most: int = 3,
    captions: Sequence[str] = (),
) -> None:
    """Draw each image, and over it the prediction error of each patch; the largest ones are framed.

    The scale is the same for every model: 0 is a perfect prediction, 1 an unrelated one. The first patch is
    predicted from CLS alone, so it is not among the framed ones.

    Args:
        model: see `prediction_error`.
        images: (B, height, width, channels), normalised floats; a few.
        png_path: picture to write.
        most: patches to frame in each image.
        captions: text below each image, such as its class and the name of its file.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: captions of another number than images; or see `prediction_error`.

    Example:
        >>> visualization.plot_prediction_error(model, images[:3], "error.png")
    """
    captions = check_captions(captions, len(images))
    errors = prediction_error(model, images)
    _, rows, columns = errors.shape
    figure = new_figure(1.6 * len(images) + 0.9, 3.2 * rows / columns + 1.2, alike=True)
    from matplotlib.colors import Normalize

    norm = Normalize(0.0, 1.0, clip=True)
    lines = figure.subplots(2, len(images), squeeze=False)
    for above, below, picture, caption, error in zip(
        *lines, displayable(images), captions, errors, strict=True
    ):
        draw_picture(above, picture, (rows, columns))
        shown = draw_overlay(below, picture, error, norm)
        for patch in 1 + np.argsort(-error.ravel()[1:], kind="stable")[:most]:
            outline(above, patch, columns)
            outline(below, patch, columns)
        write_caption(above, caption, inches=1.6)
        write_caption(below, f"mean {error.mean():.2f}")
    bar = figure.colorbar(shown, ax=lines.ravel().tolist(), extend="max", pad=0.01, fraction=0.04)
    bar.set_ticks([0.0, 0.5, 1.0], labels=["0 expected", "0.5", "1 unrelated"])
    plain_bar(bar, "1 - cosine of predicted and true embedding")
    headline(
        figure,
        f"How much each patch surprises the model (framed: the {most} largest but for the first patch)",
    )
    save(figure, png_path)
