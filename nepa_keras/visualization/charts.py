"""Small pictures of numbers and data: a confusion matrix, accuracies by number of labels, a contact sheet."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nepa_keras.visualization.figure import BLUE, MUTED, new_figure, save

_NAMED = 40  # of more classes the names are left out
_STARTS = {"pretrained": (BLUE, "o", "pretrained"), "scratch": (MUTED, "s", "from scratch")}


def plot_confusion(
    confusion: np.ndarray, class_names: tuple[str, ...], png_path: str | Path
) -> None:
    """Draws which class is taken for which, as shares of each row.

    Args:
        confusion: (K, K) numbers of images of class i taken for j.
        class_names: K.
        png_path: picture to write.

    Raises:
        ImportError: matplotlib is missing.
    """
    count = len(class_names)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    side = min(max(4.0, 0.45 * count), 12.0)
    figure = new_figure(side + 1.5, side + 1.0)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    figure.colorbar(image, ax=axes, fraction=0.046, label="share of the class's images")
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    if count <= _NAMED:
        axes.set_xticks(range(count), class_names, rotation=90, fontsize=7)
        axes.set_yticks(range(count), class_names, fontsize=7)
    if count <= 20:
        for i in range(count):
            for j in range(count):
                if confusion[i, j]:
                    color = "white" if shares[i, j] > 0.5 else MUTED
                    text = f"{100 * shares[i, j]:.0f}"
                    axes.text(j, i, text, ha="center", va="center", fontsize=6, color=color)
    save(figure, png_path)


def plot_label_counts(found: Mapping[int, Mapping[str, dict]], png_path: str | Path) -> None:
    """Draws the accuracies of all seeds and their means.

    Args:
        found: by number of labels, of `tuned_comparison` (experiments/study/tuning.py).
        png_path: picture to write.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure = new_figure(5.2, 3.6)
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
    axes.set_xlabel("labels")
    axes.set_ylabel("accuracy on the test images in %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save(figure, png_path)


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
