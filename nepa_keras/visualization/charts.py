"""Charts of numbers and data: a confusion matrix, accuracies by number of labels, a contact sheet."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nepa_keras.visualization.theme import (
    BLUE,
    INK,
    MUTED,
    PAPER,
    RULE,
    SMALL,
    TEXT,
    bare,
    headline,
    new_figure,
    plain_axes,
    plain_bar,
    save,
    shortened,
    write_caption,
)

_LARGEST = 11.0  # inches of a confusion matrix
_STARTS = {"pretrained": (BLUE, "o", "pretrained"), "scratch": (MUTED, "s", "from scratch")}


def plot_confusion(
    confusion: np.ndarray, class_names: tuple[str, ...], png_path: str | Path
) -> None:
    """Draw a confusion matrix, as shares of each row in %.

    Numbers stand in the cells, and names beside the rows, as far as they fit; shares that round to 0 are
    left out. Rows of classes without images are hatched.

    Args:
        confusion: (C, C) numbers of images of class i taken for j.
        class_names: C names.
        png_path: picture to write.

    Raises:
        ImportError: matplotlib is missing.

    Example:
        >>> confusion = np.array([[9, 1], [3, 7]])
        >>> visualization.plot_confusion(confusion, ("cat", "dog"), "confusion.png")
    """
    count = len(class_names)
    totals = confusion.sum(axis=1)
    shares = confusion / np.maximum(totals[:, None], 1)
    side = min(max(3.2, 0.4 * count), _LARGEST)
    cell = side / count  # inches
    figure = new_figure(side + 2.4, side + 1.7, alike=True)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02)
    bar.set_ticks([0.0, 0.5, 1.0], labels=["0 %", "50 %", "100 %"])
    plain_bar(bar, "share of the class's images (rows sum to 100 %)")
    axes.set_xlabel("predicted class", fontsize=TEXT, color=INK)
    axes.set_ylabel("true class (number of images)", fontsize=TEXT, color=INK)
    every = max(1, -(-SMALL // round(72 * cell)))  # names that are not drawn over each other
    named = range(0, count, every)
    short = [shortened(class_names[i], 1.1) for i in named]
    rows = [f"{name} ({totals[i]:,.0f})" for name, i in zip(short, named, strict=True)]
    axes.set_xticks(named, short, rotation=90, fontsize=SMALL, color=INK)
    axes.set_yticks(named, rows, fontsize=SMALL, color=INK)
    axes.tick_params(length=0)
    axes.spines[:].set_color(RULE)
    size = min(72 * cell / 2.2, SMALL + 1)  # "100" is about 1.9 times as wide as high
    if size >= 5:
        for i, j in zip(*np.nonzero(np.round(100 * shares)), strict=True):
            color = PAPER if shares[i, j] > 0.5 else INK
            text = f"{100 * shares[i, j]:.0f}"
            axes.text(j, i, text, ha="center", va="center", fontsize=size, color=color)
    for i in np.flatnonzero(totals == 0):
        axes.axhspan(i - 0.5, i + 0.5, fill=False, hatch="////", edgecolor=RULE, linewidth=0)
    right = np.trace(confusion) / max(confusion.sum(), 1)
    headline(figure, f"{100 * right:.1f} % of {confusion.sum():,.0f} images right")
    save(figure, png_path)


def plot_label_counts(found: Mapping[int, Mapping[str, dict]], png_path: str | Path) -> None:
    """Draw accuracies by number of labels, of all seeds and their means.

    Args:
        found: by number of labels, of `tuned_comparison` (experiments/study/tuning.py).
        png_path: picture to write.

    Raises:
        ImportError: matplotlib is missing.

    Example:
        >>> found = {
        ...     10: {"pretrained": {"test": [0.5, 0.6]}, "scratch": {"test": [0.3, 0.4]}},
        ...     100: {"pretrained": {"test": [0.7, 0.7]}, "scratch": {"test": [0.6, 0.6]}},
        ... }
        >>> visualization.plot_label_counts(found, "labels.png")
    """
    figure = new_figure(5.2, 3.4)
    axes = figure.subplots()
    for start, (color, marker, name) in _STARTS.items():
        values = [100 * np.array(starts[start]["test"]) for starts in found.values()]
        means = [of_count.mean() for of_count in values]
        axes.plot(list(found), means, color=color, marker=marker, label=name)
        for count, of_count in zip(found, values, strict=True):
            axes.scatter([count] * len(of_count), of_count, color=color, s=8, alpha=0.5)
    axes.set_xscale("log")
    axes.set_xticks(list(found), [f"{count:,}" for count in found])
    axes.minorticks_off()
    plain_axes(axes, "labels", "accuracy on the test images in %")
    axes.legend(frameon=False, fontsize=TEXT)
    save(figure, png_path)


def plot_contact_sheet(
    images: list[np.ndarray], captions: list[str], png_path: str | Path, columns: int = 8
) -> None:
    """Draw images in rows, each with a text below it that does not lie across it.

    Args:
        images: uint8 (height, width, channels), of any sizes; of more than three channels the first is drawn.
        captions: one for each; a line that is wider than its image loses its middle.
        png_path: picture to write.
        columns: images in a row.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: no images.

    Example:
        >>> pictures = list(arrays.test_images[:6])  # uint8
        >>> visualization.plot_contact_sheet(pictures, ["coat"] * 6, "sheet.png", columns=3)
    """
    if not images:
        raise ValueError("There are no images to draw.")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    lines = 1 + max(caption.count("\n") for caption in captions)
    shapes = [image.shape[0] / image.shape[1] for image in images]
    # A row is as high as its highest image, and no image higher than it is wide by half.
    heights = [min(max(shapes[i : i + columns]), 1.5) for i in range(0, len(images), columns)]
    figure = new_figure(1.3 * columns, sum(1.3 * high + 0.07 + 0.13 * lines for high in heights))
    grid = figure.subplots(rows, columns, squeeze=False, height_ratios=heights).ravel()
    for axes, image, caption in zip(grid, images, captions, strict=False):
        axes.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray")
        bare(axes)
        axes.set_anchor("S")  # so that the captions of a row lie on one line
        write_caption(axes, caption, inches=1.3)
    for axes in grid[len(images) :]:
        axes.remove()
    save(figure, png_path)
