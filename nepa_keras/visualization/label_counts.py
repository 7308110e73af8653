"""Pretrained against from scratch, by number of labels."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nepa_keras.visualization.figure import BLUE, MUTED, new_figure, save

_STARTS = {"pretrained": (BLUE, "o", "pretrained"), "scratch": (MUTED, "s", "from scratch")}


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
