"""Several runs on one page: flags that differ, results, curves over each other, pictures side by side.

It is made of the parts of report.html, and fetches nothing, as that does.
"""

from collections.abc import Callable, Sequence
from html import escape
from os import PathLike
from pathlib import Path

import numpy as np

from nepa_keras.visualization.curves import read_log
from nepa_keras.visualization.report import run_facts
from nepa_keras.visualization.report.compared_runs import ComparedRun, listed, notes, read_runs
from nepa_keras.visualization.report.pieces import picture, section, table, write_page
from nepa_keras.visualization.report.svg_charts import Line, chart


def write_comparison(run_dirs: Sequence[str | PathLike], path: str | PathLike) -> Path:
    """Write one HTML file that compares runs; takes the place of an earlier file at once.

    Args:
        run_dirs: two to eight folders of runs, which may still be training.
        path: of the page; its folder is made if missing.

    Returns:
        The path.

    Raises:
        NotADirectoryError: a folder is missing.
        IsADirectoryError: `path` is a folder.
        ValueError: fewer or more runs, one given twice, or a folder that holds no run.

    Example:
        >>> for name, rate in (("first", 1e-3), ("second", 1e-2)):
        ...     model.compile(optimizer=training.adamw(rate))
        ...     run = training.RunDir(name)
        ...     run.path.mkdir()
        ...     logger = keras.callbacks.CSVLogger(run.log)
        ...     history = model.fit(images, verbose=0, callbacks=[logger])
        >>> visualization.write_comparison(["first", "second"], "comparison.html").name
        'comparison.html'
    """
    page = Path(path).expanduser()
    if page.is_dir():
        raise IsADirectoryError(
            f"{page} is a folder; name a file for the page, such as {page}.html."
        )
    runs = read_runs(run_dirs)
    kinds: dict[str, list[ComparedRun]] = {}
    for run in runs:
        kinds.setdefault(run.kind, []).append(run)

    def by_kind(content: Callable[[list[ComparedRun], str], str]) -> str:
        """HTML of the runs of each kind, under its name where there are several."""
        found = {kind: content(alike, kind) for kind, alike in kinds.items()}
        if len(kinds) == 1:
            return "".join(found.values())
        return "".join(f"<h3>{escape(kind)}</h3>{html}" for kind, html in found.items() if html)

    sections = [
        section("run", "What was run", table("What was run", _facts(runs))),
        section("flags", "Flags that differ", by_kind(_flags)),
        section("results", "Results", by_kind(_results)),
        section("curves", "Curves", _keys(runs) + by_kind(_curves)),
        section("pictures", "Pictures", _pictures(runs)),
    ]
    page.parent.mkdir(parents=True, exist_ok=True)
    title = escape(listed([run.name for run in runs]))
    write_page(
        page,
        ["page.css", "comparison.css"],
        kind="Comparison of runs",
        title=title,
        heading=title,
        lead="".join(f'<p class="lead">{escape(note)}</p>' for note in notes(kinds)),
        main="\n".join(sections),
    )
    return page


def _facts(runs: Sequence[ComparedRun]) -> list[list[str]]:
    """Table of facts: a row for each fact, a column for each run."""
    facts = []
    for run in runs:
        known = {"Script": run.kind, **run_facts.facts_of_folder(run.folder)}
        known.pop("Command", None)  # in the flags
        if run.curves:
            known[f"Last {run.curves[0]}"] = f"{run.curves[1][-1]:,.0f}"
        known["Report"] = "written" if run.folder.report.exists() else "none yet"
        facts.append(known | {"Folder": str(run.folder)})
    names = dict.fromkeys(name for known in facts for name in known)
    return [
        ["", *(run.name for run in runs)],
        *([name, *(known.get(name, "") for known in facts)] for name in names),
    ]


def _flags(runs: list[ComparedRun], kind: str) -> str:
    known = [run for run in runs if run.flags]
    if not known:
        return "<p>None of the folders has a flags.txt.</p>"
    names = sorted({name for run in known for name in run.flags})
    values = {name: [run.flags.get(name, "not set") for run in known] for name in names}
    rows = [[name, *of_name] for name, of_name in values.items() if len(set(of_name)) > 1]
    alike = [(name, of_name[0]) for name, of_name in values.items() if len(set(of_name)) == 1]
    head = ["flag", *(run.name for run in known)]
    shown = table(f"Flags that differ, {kind}", [head, *rows]) if rows else ""
    if len(known) > 1 and not rows:
        shown = "<p>No flag differs.</p>"
    if alike:
        what = "the same in all" if len(known) > 1 else f"of {known[0].name}"
        same = table(f"Flags that are {what}", [("flag", "value"), *alike])
        shown += f"<details><summary>{len(alike)} flags {escape(what)}</summary>{same}</details>"
    return shown


def _results(runs: list[ComparedRun], kind: str) -> str:
    """Each cell of the runs' tables as a row, with a column for each run."""
    tables: dict[str, dict[str, list[str]]] = {}
    for i, run in enumerate(runs):
        for title, (head, *body) in run_facts.results_of_folder(run.folder).items():
            of_title = tables.setdefault(title, {})
            for first, *cells in body:
                for column, cell in zip(head[1:], cells, strict=False):
                    row = of_title.setdefault(f"{first}: {column}", [""] * len(runs))
                    row[i] = f"{row[i]}, {cell}" if row[i] else cell
    names = [run.name for run in runs]
    shown = "".join(
        table(title, [["", *names], *([name, *cells] for name, cells in rows.items())], True)
        for title, rows in tables.items()
    )
    without = [run.name for run in runs if not run_facts.results_of_folder(run.folder)]
    if without:
        shown += f"<p>No table of results in {escape(listed(without))}.</p>"
    return shown


def _keys(runs: Sequence[ComparedRun]) -> str:
    boxes = "".join(
        f'<label class="key {run.style}"><input type="checkbox" id="show-{i}" checked>'
        f"{escape(run.name)}</label>"
        for i, run in enumerate(runs, 1)
    )
    return f'<fieldset class="runs"><legend>Runs shown</legend>{boxes}</fieldset>'


def _curves(runs: list[ComparedRun], kind: str) -> str:
    drawn = [(run, *run.curves) for run in runs if run.curves]
    lines: dict[tuple[str, str, str], list[Line]] = {}
    logarithmic = {}
    seen: dict[tuple[str, str, str], dict[str, str]] = {}  # kinds of lines in a chart, by style
    for run, unit, x, panels in drawn:
        for panel in panels:
            place = panel.title, panel.label, unit
            logarithmic[place] = panel.log
            for column, values in panel.lines.items():
                style = seen.setdefault(place, {}).setdefault(
                    column, "dashed" if seen[place] else "solid"
                )
                line = Line(f"{run.name}, {column}", x, values, f"{run.style} {style}")
                lines.setdefault(place, []).append(line)
    charts = "".join(
        chart(
            *place,
            of_place,
            seen[place].items() if len(seen[place]) > 1 else (),
            logarithmic[place],
        )
        for place, of_place in lines.items()
    )
    shown = f'<div class="charts">{charts}</div>{_last_numbers(runs, kind)}' if charts else ""
    if without := [run.name for run in runs if not run.curves]:
        shown += f"<p>No log.csv with curves in {escape(listed(without))}.</p>"
    return shown


def _last_numbers(runs: Sequence[ComparedRun], kind: str) -> str:
    """The last number of each column of the logs."""
    logs = {run.name: read_log(run.folder.log) for run in runs if run.curves}
    rows = []
    for column in dict.fromkeys(name for log in logs.values() for name in log):
        finite = [log.get(column, np.empty(0)) for log in logs.values()]
        finite = [values[np.isfinite(values)] for values in finite]
        rows.append([column, *(f"{values[-1]:.6g}" if len(values) else "" for values in finite)])
    numbers = table(f"Last numbers of the logs, {kind}", [["", *logs], *rows])
    return (
        f"<details><summary>The last number of each column of the logs</summary>{numbers}</details>"
    )


def _pictures(runs: Sequence[ComparedRun]) -> str:
    """Pictures of one name beside each other."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for path in run_facts.files_of_folder(run.folder, "*.png"):
            if path != run.folder.curves or not run.curves:
                found.setdefault(path.name, []).append(picture(path, run.name))
    return "".join(
        f'<h3>{escape(name)}</h3><div class="beside">{"".join(figures)}</div>'
        for name, figures in found.items()
    )
