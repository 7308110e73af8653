"""A sheet of small pictures of a data set."""

from pathlib import Path

import numpy as np

from nepa_keras.visualization.figure import MUTED, new_figure, save


def plot_contact_sheet(
    images: list[np.ndarray], captions: list[str], png_path: str | Path, columns: int = 8
) -> None:
    """Draws images in rows, each with a line of text below it.

    Args:
        images: uint8 (height, width, channels), of any sizes; of more than three channels the first is drawn.
        captions: one for each.
        png_path: picture to write.
        columns: images in a row.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: no images.
    """
    if not images:
        raise ValueError("There are no images to draw.")
    rows = -(-len(images) // columns)
    figure = new_figure(1.3 * columns, 1.5 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, image, caption in zip(grid, images, captions, strict=False):
        axes.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray")
        axes.set_title(caption, fontsize=6, color=MUTED, y=-0.16)
    save(figure, png_path)
