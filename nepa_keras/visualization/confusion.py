"""A confusion matrix as a picture."""

from pathlib import Path

import numpy as np

from nepa_keras.visualization.figure import MUTED, new_figure, save

_NAMED = 40  # of more classes the names are left out


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
