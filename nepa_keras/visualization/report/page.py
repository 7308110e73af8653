"""report.html of a run: one file that shows what was run and what came out, and fetches nothing.

Its frame, content, style and script are frame.html, page.html, page.css and page.js, joined when it is
written. Everything but the explorer of patches is there without JavaScript. A content policy in the page lets
no other script run than ours, and nothing be fetched, whatever flags and names of files and classes say.
"""

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from os import PathLike
from pathlib import Path

import keras
import numpy as np

from nepa_keras.training import RunDir
from nepa_keras.visualization.curves import Panel, read_log, read_panels
from nepa_keras.visualization.report import run_facts
from nepa_keras.visualization.report.patch_maps import MAX_BYTES, patch_maps
from nepa_keras.visualization.report.pieces import (
    Table,
    facts_list,
    picture,
    section,
    table,
    template,
    write_page,
)
from nepa_keras.visualization.report.svg_charts import Line, chart
from nepa_keras.visualization.theme import RAMP, layer_depth

_MOST_ROWS = 200  # of the log in the table of numbers
_LEAD = (
    '<p class="lead">NEPA trains a Vision Transformer without labels. An image is cut into patches, which '
    "are read row by row, as words of a text. At each patch the model says what it expects in the "
    "<em>next</em> one: not its pixels, but its embedding, the list of numbers that the model itself makes "
    "of a patch.</p>"
)


def write_report(
    run_dir: str | PathLike,
    model: keras.Model | None = None,
    images: np.ndarray | None = None,
    captions: Sequence[str] = (),
    tables: Mapping[str, Table] | None = None,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Write RUN_DIR/report.html from what the folder holds; takes the place of an earlier one at once.

    Without a model, or images, it is the report of any run directory, without the explorer.

    Args:
        run_dir: existing folder; flags.txt, log.csv, tables in results.json and *.md, and *.png are shown if
            they are there, *.jpg too.
        model: whose maps the explorer shows, see `patch_maps`.
        images: (B, height, width, channels), normalised floats; the explorer takes four or so.
        captions: of the images, such as names of classes.
        tables: results, by title; the first row is the head, the first column names the rows. They are kept
            in results.json, where a later report and `write_comparison` find them.
        max_bytes: bound of the explorer's data, see `patch_maps`.

    Returns:
        The path of the report.

    Raises:
        NotADirectoryError: there is no such folder.
        ValueError: see `patch_maps`; or results.json is damaged.

    Example:
        >>> tables = {"Results": [("weights", "accuracy"), ("trained", "0.91")]}
        >>> visualization.write_report("pictures", model, images[:2], ["coat", "bag"], tables).name
        'report.html'
    """
    run = RunDir(run_dir)
    if not run.path.is_dir():
        raise NotADirectoryError(f"{run} is no folder; a report is of a run directory.")
    maps, reason = None, "This report was written without a model, so it has no maps to explore."
    if model is not None and images is not None and len(images):
        maps = patch_maps(model, images, captions, max_bytes)
        reason = (
            "The maps of this model's grid of patches would be larger than a page should be, so they "
            "are left out."
        )
    if tables:
        run.write_results(tables)
    facts = run_facts.facts_of_folder(run)
    if model is not None:
        facts |= run_facts.facts_of_model(model)
    facts |= run_facts.facts_of_process()

    name = run.path.resolve().name
    content = template(
        "page.html",
        facts=facts_list(facts),
        flags=_flags(run_facts.flags_of_folder(run)),
        results=_results(run_facts.results_of_folder(run)),
        explorer=_explorer(maps, reason),
        curves=_curves(run.log, getattr(model, "optimizer", None)),
        pictures=_pictures(run),
    )
    write_page(
        run.report,
        ["page.css"],
        kind="Run report",
        title=escape(f"Report of {name}"),
        heading=escape(name),
        lead=_LEAD,
        main=content,
    )
    return run.report


def _flags(flags: Sequence[tuple[str, str]]) -> str:
    if not flags:
        return "<p>The folder has no flags.txt.</p>"
    rows = table("Flags of the run", [("flag", "value"), *flags])
    return f"<details><summary>All {len(flags)} flags</summary>{rows}</details>"


def _results(tables: Mapping[str, Table]) -> str:
    shown = (table(title, rows, shows_title=True) for title, rows in tables.items())
    return section("results", "Results", "".join(shown))


def _explorer(maps: dict | None, reason: str) -> str:
    if maps is None:
        return f"<p>{escape(reason)}</p>"
    notes = []
    if maps["images_left_out"]:
        total = maps["images_left_out"] + len(maps["images"])
        notes.append(
            f"The first {len(maps['images'])} of {total} images are here, to keep the page small."
        )
    if not maps["heads"]:
        notes.append("Of the attention heads only the mean is here, to keep the page small.")
    # "<" could end the script element, so it is written as JSON can, too.
    held = json.dumps(maps | {"ramp": RAMP}, allow_nan=False, separators=(",", ":")).replace(
        "<", "\\u003c"
    )
    return template(
        "explorer.html",
        notes=escape(" ".join(notes)),
        last=str(maps["layers"] - 1),
        data=held,
    )


def _curves(log: Path, optimizer: keras.optimizers.Optimizer | None) -> str:
    try:
        unit, x, panels = read_panels(log, optimizer)
    except (FileNotFoundError, ValueError):
        return "<p>The folder has no log.csv with curves.</p>"
    columns = read_log(log)
    every = -(-len(x) // _MOST_ROWS)
    # The last row is always there.
    shown = sorted(set(range(len(x) - 1, -1, -every)))
    names = [unit, *(name for name in columns if name != unit)]
    columns[unit] = x
    rows = [[_cell(columns[name][i]) for name in names] for i in shown]
    of = f"every {every}th of {len(x)} rows" if every > 1 else f"{len(x)} rows"
    numbers = table("Numbers of the log", [names, *rows])
    charts = "".join(_chart(panel, unit, x) for panel in panels)
    return (
        f'<div class="charts">{charts}</div>'
        f"<details><summary>The numbers, {of}</summary>{numbers}</details>"
    )


def _chart(panel: Panel, unit: str, x: np.ndarray) -> str:
    count = len(panel.lines)
    styles = [
        f"depth-{layer_depth(i, count)}" if panel.of_layers else f"line-{i + 1}"
        for i in range(count)
    ]
    lines = [
        Line(name, x, values, style)
        for (name, values), style in zip(panel.lines.items(), styles, strict=True)
    ]
    keys = [(line.name, line.style) for line in lines]
    return chart(panel.title, panel.label, unit, lines, keys if count > 1 else (), panel.log)


def _cell(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else "not finite" if math.isinf(value) else ""


def _pictures(run: RunDir) -> str:
    paths = [
        path for pattern in ("*.png", "*.jpg") for path in run_facts.files_of_folder(run, pattern)
    ]
    if run.log.exists():  # drawn above
        paths = [path for path in paths if path != run.curves]
    return section("pictures", "Pictures", "".join(picture(path, path.name) for path in paths))
