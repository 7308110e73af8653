"""Training curves from the log of `keras.callbacks.CSVLogger`."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nepa_keras.visualization.figure import BLUE, INK, MUTED, ORANGE, new_figure, save

# Panel: title, unit on the y axis, and the columns with their names.
_PANELS = (
    ("Loss", "mean of the batches", {"loss": "training", "val_loss": "validation"}),
    (
        "Accuracy on the validation images",
        "share",
        {"val_accuracy": "trained weights", "ema_val_accuracy": "averaged weights"},
    ),
    (
        "Mean average precision on the validation images",
        "share",
        {"val_map": "trained weights", "ema_val_map": "averaged weights"},
    ),
    (
        "Segmentation of the validation images",
        "share",
        {"val_miou": "mean IoU", "val_aacc": "pixels that are right"},
    ),
    ("Directions in use", "effective rank of features", {"feature_effective_rank": "features"}),
    (
        "Probes of frozen features",
        "accuracy",
        {"knn_accuracy": "k-NN", "linear_probe_accuracy": "linear probe"},
    ),
    ("Learning rate", "per step", {"learning_rate": "learning rate"}),
    (
        "Gradient norm",
        "L2, before clipping",
        {"gradient_norm": "mean", "gradient_norm_p99": "99 % of steps are below"},
    ),
    (
        "Spread of directions",
        "1 = all directions, 0 = collapsed",
        {"target_spread": "targets", "prediction_spread": "predictions"},
    ),
)


def plot_curves(csv_path: str | Path, png_path: str | Path) -> None:
    """Draws loss, learning rate, gradient norm and spreads, one small panel each.

    Columns that the log lacks are left out; the x axis is its "step" column, or else "epoch"
    (counted from 1).

    Args:
        csv_path: log of `keras.callbacks.CSVLogger`, one row or more.
        png_path: picture to write.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: a log without rows, or without any of the columns.
    """
    unit, x, panels = read_panels(csv_path)
    rows = len(x)

    figure = new_figure(8, 2.6 * ((len(panels) + 1) // 2))
    grid = figure.subplots((len(panels) + 1) // 2, 2, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes, (title, label, lines) in zip(grid, panels, strict=False):
        for (name, values), color in zip(lines.items(), (BLUE, ORANGE), strict=False):
            style = {"marker": "o", "markersize": 4} if rows < 10 else {}
            axes.plot(x, values, color=color, linewidth=1.4, label=name, **style)
        _clean(axes)
        axes.set_title(title, loc="left", fontsize=10, color=INK)
        axes.set_ylabel(label, fontsize=8)
        axes.set_xlabel(unit, fontsize=8)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8)
    save(figure, png_path)


class Panel(NamedTuple):
    """One small diagram: its title, the unit of its y axis, and the values of each line by name."""

    title: str
    label: str
    lines: dict[str, np.ndarray]


def read_panels(csv_path: str | Path) -> tuple[str, np.ndarray, list[Panel]]:
    """What there is to draw in a log: the unit of x ("step" or "epoch"), x, and the panels.

    Args:
        csv_path: log of `keras.callbacks.CSVLogger`.

    Raises:
        ValueError: see `plot_curves`.
    """
    columns = read_log(csv_path)
    panels = []
    for title, label, names in _PANELS:
        lines = {name: columns[key] for key, name in names.items() if key in columns}
        if lines:
            panels.append(Panel(title, label, lines))
    if not panels:
        wanted = ", ".join(name for panel in _PANELS for name in panel[2])
        raise ValueError(
            f"{csv_path} has the columns {', '.join(columns)} and none of {wanted}; give the log "
            "that CSVLogger wrote in fit."
        )
    unit = "step" if "step" in columns else "epoch"
    rows = len(next(iter(columns.values())))
    return unit, columns.get(unit, np.arange(rows)) + (unit == "epoch"), panels


def _clean(axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useOffset=False)


def read_log(csv_path: str | Path) -> dict[str, np.ndarray]:
    """The columns as float64; a cell that is no number becomes NaN.

    A column of "NA" alone is one that CSVLogger keeps for a validation that never came.

    Raises:
        ValueError: a log without rows.
    """
    with open(Path(csv_path).expanduser(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{csv_path} has no rows; train at least one epoch first.")
    held = [name for name in rows[0] if any(row[name] != "NA" for row in rows)]
    return {name: np.array([_number(row[name]) for row in rows]) for name in held}


def _number(cell: str | None) -> float:
    try:
        return float(cell or "nan")
    except ValueError:
        return float("nan")
