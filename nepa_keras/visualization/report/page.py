"""report.html of a run: one file that shows what was run and what came out, and fetches nothing.

Its skeleton, style and script are page.html, page.css and page.js, joined when it is written. Everything but
the explorer of patches is there without JavaScript. A content policy in the page lets no other script run
than ours, and nothing be fetched, whatever flags, names of files and names of classes say.
"""

import base64
import hashlib
import json
import math
import string
from collections.abc import Mapping, Sequence
from html import escape
from os import PathLike
from pathlib import Path

import keras
import numpy as np

from nepa_keras.files import replacing
from nepa_keras.training import RunDir
from nepa_keras.visualization.curves import read_log, read_panels
from nepa_keras.visualization.report import run_facts
from nepa_keras.visualization.report.patch_maps import MAX_BYTES, patch_maps
from nepa_keras.visualization.report.svg_charts import chart

_FILES = Path(__file__).parent
_MOST_ROWS = 200  # of the log in the table of numbers
_LARGEST_PICTURE = 3_000_000  # bytes; larger ones stay files beside the report
_ALT = {
    "similarity": "Test images in rows, each with a query patch in orange and, beside it, a map of where in "
    "the image the predicted next embedding finds its match.",
    "examples": "Images of the validation set in rows: the image, the true classes in colours, and the "
    "predicted ones.",
    "confusion": "Confusion matrix: which class is taken for which, as shares of each row.",
    "curves": "Training curves, one small diagram for each group of logged numbers.",
    "attention": "Maps of where one patch of an image looks: a row for each block, with the mean of the "
    "heads, each head, and the product through all blocks.",
    "error": "Images, and below each a map of how badly each of its patches was predicted.",
    "components": "Images in rows, each with maps of its patch features in colours, one for each layer.",
    "nearest": "Images in rows, each with a framed patch, and the nearest patches of other images.",
    "projection": "Thumbnails of images on a plane; those with similar features are near each other.",
    "rollout": "Images in rows: the image, its first patches, and what the model continues them with; below, "
    "a chart of the cosine to the truth after each patch.",
}

Table = Sequence[Sequence[str]]


def write_report(
    run_dir: str | PathLike,
    model: keras.Model | None = None,
    images: np.ndarray | None = None,
    captions: Sequence[str] = (),
    tables: Mapping[str, Table] | None = None,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Writes RUN_DIR/report.html from what the folder holds; takes the place of an earlier one at once.

    Without a model, or images, it is the report of any run directory, without the explorer.

    Args:
        run_dir: existing folder; flags.txt, log.csv, tables in *.md and *.png are shown if they are there.
        model: whose maps the explorer shows, see `patch_maps`.
        images: (N, height, width, channels), normalised floats; the explorer takes four or so.
        captions: of the images, such as names of classes.
        tables: results, by title; the first row is the head, the first column names the rows.
        max_bytes: bound of the explorer's data, see `patch_maps`.

    Returns:
        The path of the report.

    Raises:
        NotADirectoryError: there is no such folder.
        ValueError: see `patch_maps`.
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
    facts = run_facts.facts_of_folder(run)
    if model is not None:
        facts |= run_facts.facts_of_model(model)
    facts |= run_facts.facts_of_process()

    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    name = run.path.resolve().name
    page = string.Template(_file("page.html")).substitute(
        title=escape(f"Report of {name}"),
        name=escape(name),
        policy=f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'",
        style=_file("page.css"),
        script=script,
        facts=_facts(facts),
        flags=_flags(run_facts.flags_of_folder(run)),
        results=_results({**run_facts.tables_of_folder(run), **(tables or {})}),
        explorer=_explorer(maps, reason),
        curves=_curves(run.log),
        pictures=_pictures(run),
    )
    with replacing(run.report) as unfinished:
        # Names of files may be bytes that are no text.
        unfinished.write_bytes(page.encode("utf-8", "xmlcharrefreplace"))
    return run.report


def _file(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def _facts(facts: Mapping[str, str]) -> str:
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in facts.items()
    )


def _flags(flags: Sequence[tuple[str, str]]) -> str:
    if not flags:
        return "<p>The folder has no flags.txt.</p>"
    table = _table("Flags of the run", [("flag", "value"), *flags])
    return f"<details><summary>All {len(flags)} flags</summary>{table}</details>"


def _results(tables: Mapping[str, Table]) -> str:
    if not tables:
        return ""
    shown = "".join(_table(title, rows, shows_title=True) for title, rows in tables.items())
    return f'<section aria-labelledby="results"><h2 id="results">Results</h2>{shown}</section>'


def _table(title: str, rows: Table, shows_title: bool = False) -> str:
    """A table that scrolls for itself on a narrow screen, also by keyboard."""
    head, *body = [[escape(str(cell)) for cell in row] for row in rows]
    columns = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in others)}</tr>'
        for first, *others in body
    )
    hidden = "" if shows_title else ' class="unseen"'
    return (
        f'<div class="scrolls" tabindex="0" role="region" aria-label="{escape(title)}"><table>'
        f"<caption{hidden}>{escape(title)}</caption><thead><tr>{columns}</tr></thead>"
        f"<tbody>{lines}</tbody></table></div>"
    )


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
    held = json.dumps(maps, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return string.Template(_file("explorer.html")).substitute(
        notes=escape(" ".join(notes)),
        last=maps["layers"] - 1,
        data=held,
    )


def _curves(log: Path) -> str:
    try:
        unit, x, panels = read_panels(log)
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
    table = _table("Numbers of the log", [names, *rows])
    charts = "".join(chart(panel, unit, x) for panel in panels)
    return (
        f'<div class="charts">{charts}</div>'
        f"<details><summary>The numbers, {of}</summary>{table}</details>"
    )


def _cell(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else "not finite" if math.isinf(value) else ""


def _pictures(run: RunDir) -> str:
    paths = run_facts.files_of_folder(run, "*.png")
    if run.log.exists():  # drawn above
        paths = [path for path in paths if path != run.curves]
    shown = []
    for path in paths:
        if path.stat().st_size > _LARGEST_PICTURE:
            shown.append(f"<p>{escape(path.name)} is too large for this page; it is beside it.</p>")
            continue
        held = base64.b64encode(path.read_bytes()).decode("ascii")
        alt = escape(_ALT.get(path.stem, f"The picture {path.name} of the run."), quote=True)
        shown.append(
            f'<figure><img src="data:image/png;base64,{held}" alt="{alt}">'
            f"<figcaption>{escape(path.name)}</figcaption></figure>"
        )
    if not shown:
        return ""
    return (
        '<section aria-labelledby="pictures"><h2 id="pictures">Pictures</h2>'
        f"{''.join(shown)}</section>"
    )
