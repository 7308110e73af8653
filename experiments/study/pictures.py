"""Figures of a study: accuracy by length of pretraining, training curves, attention over a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nepa_keras.visualization.figure import BLUE, INK, MUTED, ORANGE, new_figure, save
from nepa_keras.visualization.patches import displayable, draw_map, draw_picture, outline
from study.dynamics import Comparison, Curves
from study.length import MEASURES


def _clean(axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def plot_length(found: Mapping[int, Mapping[str, Sequence[float]]], png_path: Path) -> None:
    """Draw accuracies by steps of pretraining: means, with error bars of one standard deviation.

    Args:
        found: accuracies in [0, 1] of the runs, by step and measure.
        png_path: PNG file to write.
    """
    figure = new_figure(5.2, 3.4)
    axes = figure.subplots()
    for (name, label), color in zip(MEASURES.items(), (BLUE, MUTED, ORANGE), strict=True):
        values = [100 * np.array(of_step[name]) for of_step in found.values()]
        means = [np.nanmean(of_step) for of_step in values]
        bars = [np.nanstd(of_step, ddof=min(1, len(of_step) - 1)) for of_step in values]
        axes.errorbar(list(found), means, bars, color=color, marker="o", capsize=2, label=label)
    _clean(axes, "steps of pretraining", "accuracy on the test images in %")
    axes.legend(frameon=False, fontsize=8)
    save(figure, png_path)


def plot_dynamics(drawn: Sequence[tuple[Comparison, Curves]], png_path: Path) -> None:
    """Draw the comparisons side by side: a thick line for the mean over seeds, a thin line for each seed."""
    figure = new_figure(3.4 * len(drawn), 2.9)
    for axes, (comparison, curves) in zip(figure.subplots(1, len(drawn)), drawn, strict=True):
        for (name, of_name), color in zip(curves.items(), (BLUE, ORANGE), strict=True):
            for steps, values in of_name:
                axes.plot(steps, values, color=color, linewidth=0.6, alpha=0.5)
            if of_name:
                mean = np.mean([values for _, values in of_name], axis=0)
                axes.plot(of_name[0][0], mean, color=color, linewidth=1.8, label=name)
            else:
                axes.plot([], [], color=color, label=f"{name} (diverged)")
        if comparison.column == "gradient_norm":
            axes.set_yscale("log")
            axes.tick_params(which="minor", labelsize=6)
        _clean(axes, "step", "")
        axes.set_title(comparison.title, loc="left", fontsize=10, color=INK)
        axes.legend(frameon=False, fontsize=8)
    save(figure, png_path)


def plot_attention_over_steps(
    images: np.ndarray, maps: Mapping[int, np.ndarray], query: int, png_path: Path
) -> None:
    """Draw a row for each image: the image, then the attention of the query patch at each step.

    The query is outlined in orange. Later patches, which it cannot attend to, are light grey. All maps of an
    image have the same colour scale.

    Args:
        images: (B, height, width, channels), normalised floats.
        maps: attention maps (B, h, w) by step.
        query: number of the query patch in row-major order from 0.
        png_path: PNG file to write.
    """
    rows, columns = next(iter(maps.values())).shape[1:]
    figure = new_figure(1.3 * (1 + len(maps)) + 0.7, 1.4 * len(images) * rows / columns + 0.4)
    grid = figure.subplots(len(images), 1 + len(maps), squeeze=False)
    unseen = np.arange(rows * columns).reshape(rows, columns) > query
    for n, line in enumerate(grid):
        draw_picture(line[0], displayable(images[n]), (rows, columns))
        highest = max(of_step[n].max() for of_step in maps.values())
        for axes, of_step in zip(line[1:], maps.values(), strict=True):
            weights = np.ma.masked_where(unseen, of_step[n])
            shown = draw_map(axes, weights, vmin=0, vmax=highest)
        for axes in line:
            outline(axes, query, columns, color=ORANGE)
        bar = figure.colorbar(shown, ax=list(line), fraction=0.05, pad=0.01)
        bar.ax.tick_params(labelsize=7)
    titles = ["image", *(f"step {step:,}" for step in maps)]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=8, color=INK)
    save(figure, png_path)
