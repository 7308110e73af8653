"""Figures of a study: accuracy by length of pretraining, training curves, attention over a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nepa_keras.visualization.patches import (
    displayable,
    draw_overlay,
    draw_picture,
    draw_share_bar,
    outline,
    share_norm,
)
from nepa_keras.visualization.theme import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    SMALL,
    TEXT,
    new_figure,
    plain_axes,
    save,
)
from study.dynamics import Comparison, Curves
from study.length import MEASURES


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
    plain_axes(axes, "steps of pretraining", "accuracy on the test images in %")
    axes.legend(frameon=False, fontsize=TEXT)
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
            axes.tick_params(which="minor", labelsize=SMALL)
        plain_axes(axes, "step", title=comparison.title)
        axes.legend(frameon=False, fontsize=TEXT)
    save(figure, png_path)


def plot_attention_over_steps(
    images: np.ndarray, maps: Mapping[int, np.ndarray], query: int, png_path: Path
) -> None:
    """Draw a row for each image: the image, then over it the attention of the query patch at each step.

    The query is outlined in orange. Later patches, which it cannot attend to, are pale. All maps have one
    logarithmic colour scale.

    Args:
        images: (B, height, width, channels), normalised floats.
        maps: attention maps (B, h, w) by step.
        query: number of the query patch in row-major order from 0.
        png_path: PNG file to write.
    """
    rows, columns = next(iter(maps.values())).shape[1:]
    figure = new_figure(
        1.3 * (1 + len(maps)) + 0.8, 1.3 * len(images) * rows / columns + 0.4, alike=True
    )
    grid = figure.subplots(len(images), 1 + len(maps), squeeze=False)
    hidden = np.arange(rows * columns).reshape(rows, columns) > query
    even = 1.0 / (query + 2)  # of CLS and the patches that the query sees
    norm = share_norm(np.stack(list(maps.values())), even)
    for n, line in enumerate(grid):
        picture = displayable(images[n])
        draw_picture(line[0], picture, (rows, columns))
        for axes, of_step in zip(line[1:], maps.values(), strict=True):
            shown = draw_overlay(axes, picture, of_step[n], norm, hidden)
        for axes in line:
            outline(axes, query, columns)
    label = "share of the attention"
    draw_share_bar(figure, shown, grid.ravel().tolist(), even, label, fraction=0.05, pad=0.01)
    titles = ["image", *(f"step {step:,}" for step in maps)]
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=TEXT, color=INK)
    save(figure, png_path)
