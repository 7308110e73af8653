"""Training curves, from the log of `keras.callbacks.CSVLogger`."""

import csv
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nepa_keras.visualization.theme import (
    BLUE,
    ORANGE,
    SMALL,
    depth_color,
    layer_depth,
    new_figure,
    plain_axes,
    save,
)

if TYPE_CHECKING:  # drawing a log needs no Keras
    from nepa_keras.training import AdamW

_RATE, _NORM = "Learning rate", "Gradient norm"
# Panel: title, unit on the y axis, and the columns with their names.
_PANELS = (
    (
        "Loss",
        "mean of the batches",
        {
            "loss": "training",
            "val_loss": "validation",
            "ema_val_loss": "validation, averaged weights",
        },
    ),
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
    (_RATE, "per step", {"learning_rate": "learning rate"}),
    (
        _NORM,
        "L2 before clipping, log scale",
        {"gradient_norm": "mean", "gradient_norm_p99": "99 % of steps are below"},
    ),
    (
        "Spread of directions",
        "1 = all directions, 0 = collapsed",
        {"target_spread": "targets", "prediction_spread": "predictions"},
    ),
)


class Panel(NamedTuple):
    """One small diagram of a log.

    Attributes:
        title: of the diagram.
        label: unit of its y axis.
        lines: values of each line by name.
        log: whether the y axis is logarithmic.
        of_layers: whether the lines are those of layers, from the input to the head.
    """

    title: str
    label: str
    lines: dict[str, np.ndarray]
    log: bool = False
    of_layers: bool = False


def plot_curves(
    csv_path: str | Path, png_path: str | Path, optimizer: "AdamW | None" = None
) -> None:
    """Draw training and validation loss, learning rates, gradient norm and so on, one small panel each.

    Columns that the log lacks are left out; the x axis is its "step" column, or else "epoch"
    (counted from 1).

    Args:
        csv_path: log of `keras.callbacks.CSVLogger`, one row or more.
        png_path: picture to write.
        optimizer: of the run; with a layer-wise schedule the rate of each layer is drawn.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: a log without rows, or without any of the columns.

    Example:
        >>> history = model.fit(images, verbose=0, callbacks=[keras.callbacks.CSVLogger("log.csv")])
        >>> visualization.plot_curves("log.csv", "curves.png")
    """
    unit, x, panels = read_panels(csv_path, optimizer)
    figure = new_figure(8, 2.6 * ((len(panels) + 1) // 2))
    grid = figure.subplots((len(panels) + 1) // 2, 2, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes, panel in zip(grid, panels, strict=False):
        _draw(axes, panel, unit, x)
    save(figure, png_path)


def _draw(axes, panel: Panel, unit: str, x: np.ndarray) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    count = len(panel.lines)
    # Of many layers the first, the last, and one between are named.
    named = set(range(count)) if count <= 4 else {0, (count - 1) // 2, count - 2, count - 1}
    for i, (name, values) in enumerate(panel.lines.items()):
        color = (
            depth_color(layer_depth(i, count)) if panel.of_layers else (BLUE, ORANGE, ORANGE)[i % 3]
        )
        line = (0, (4, 2)) if name.endswith("averaged weights") and count > 2 else "-"
        known = np.isfinite(values)
        # What is measured now and then is joined over the rows between; a gap in other lines stays one.
        now_and_then = known.any() and known.sum() <= 0.5 * len(values)
        shown = known if now_and_then else np.ones(len(values), bool)
        marks = {"marker": "o", "markersize": 3.5} if shown.sum() < 10 else {}
        label = name if i in named else None
        axes.plot(
            x[shown],
            values[shown],
            color=color,
            linewidth=1.4,
            linestyle=line,
            label=label,
            **marks,
        )
    plain_axes(axes, unit, panel.label, panel.title)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if panel.log and any((values > 0).any() for values in panel.lines.values()):
        axes.set_yscale("log", nonpositive="mask")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        low, high = axes.get_ylim()
        if high < 5 * low:  # too few of 1, 2 and 5 are within it
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    else:
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useOffset=False)
        axes.yaxis.get_offset_text().set_fontsize(SMALL)
        axes.yaxis.get_offset_text().set_x(-0.14)
    if count > 1:
        axes.legend(frameon=False, fontsize=SMALL)


def read_panels(
    csv_path: str | Path, optimizer: "AdamW | None" = None
) -> tuple[str, np.ndarray, list[Panel]]:
    """Read a log as panels: the unit of x ("step" or "epoch"), x, and the panels.

    Args:
        csv_path: log of `keras.callbacks.CSVLogger`.
        optimizer: see `plot_curves`.

    Raises:
        ValueError: see `plot_curves`.
    """
    columns = read_log(csv_path)
    panels = []
    for title, label, names in _PANELS:
        lines = {name: columns[key] for key, name in names.items() if key in columns}
        if not lines:
            continue
        if (
            title == _RATE
            and "step" in columns
            and (rates := layer_rates(optimizer, columns["step"]))
        ):
            panels.append(Panel("Learning rate of each layer", label, rates, of_layers=True))
        else:
            panels.append(Panel(title, label, lines, log=title == _NORM))
    if not panels:
        wanted = ", ".join(name for panel in _PANELS for name in panel[2])
        raise ValueError(
            f"{csv_path} has the columns {', '.join(columns)} and none of {wanted}; give the log "
            "that CSVLogger wrote in fit."
        )
    unit = "step" if "step" in columns else "epoch"
    rows = len(next(iter(columns.values())))
    return unit, columns.get(unit, np.arange(rows)) + (unit == "epoch"), panels


def layer_rates(optimizer: "AdamW | None", steps: np.ndarray) -> dict[str, np.ndarray]:
    """Learning rates of the layers of a layer-wise schedule, each (len(steps),), from the input to the head.

    Args:
        optimizer: of a run; without a layer-wise schedule there are none.
        steps: numbers of updates made; the rate is that of the last of them.
    """
    schedule = getattr(optimizer, "layerwise", None)
    if optimizer is None or schedule is None or not optimizer.built:
        return {}
    found = [group.layer_group for group in optimizer.groups if group.layer_group is not None]
    layers = sorted(dict.fromkeys(found), key=lambda layer: (layer.head, -layer.exponent))
    made = [max(int(step) - 1, 0) for step in steps]
    return {
        layer.name: np.array([schedule.rate_at(step, layer) for step in made]) for layer in layers
    }


def read_log(csv_path: str | Path) -> dict[str, np.ndarray]:
    """Read the columns as float64; a cell that is no number becomes NaN.

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
