"""Runs of a comparison: their names, scripts, flags and curves, and notes on how comparable they are.

Runs of one script are compared with each other; the loss of pretraining and that of a classifier are numbers
of different formulae.
"""

import re
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nepa_keras.training import RunDir
from nepa_keras.visualization.curves import Panel, read_panels
from nepa_keras.visualization.report.run_facts import flags_of_folder

_MOST_RUNS = 8  # each has a colour of its own
_SCRIPT = re.compile(r"\b(pretrain|finetune|segment)\b")
# Flags of which curves over each other cannot be read without knowing that they differ.
_OF_CURVES = {
    "objective": "their losses are of different formulae",
    "batch_size": "a step is not the same number of images",
    "data": "their images may differ",
}


class ComparedRun(NamedTuple):
    """A run that is compared.

    Attributes:
        folder: of the run.
        name: on the page.
        style: class of its lines in the style sheet.
        kind: the script that trains it.
        flags: values by name.
        curves: of `read_panels`; None where there are none.
    """

    folder: RunDir
    name: str
    style: str
    kind: str
    flags: dict[str, str]
    curves: tuple[str, np.ndarray, list[Panel]] | None


def read_runs(run_dirs: Sequence[str | PathLike]) -> list[ComparedRun]:
    """Read the runs in folders; raises as `write_comparison`."""
    folders = [RunDir(run_dir) for run_dir in run_dirs]
    if not 2 <= len(folders) <= _MOST_RUNS:
        raise ValueError(
            f"A comparison is of 2 to {_MOST_RUNS} runs, not of {len(folders)}; report.html is of one."
        )
    missing = [str(folder) for folder in folders if not folder.path.is_dir()]
    if missing:
        raise NotADirectoryError(
            f"{listed(missing)}: there is no such folder; name the folders of runs."
        )
    resolved = [folder.path.resolve() for folder in folders]
    if twice := [str(one) for one in folders if resolved.count(one.path.resolve()) > 1]:
        raise ValueError(f"{listed(twice)}: one run, given more than once.")
    empty = [str(one) for one in folders if not (one.flags.exists() or one.log.exists())]
    if empty:
        raise ValueError(
            f"{listed(empty)}: no folder of a run, as it holds neither flags.txt nor log.csv."
        )
    names = _short_names(resolved)
    return [
        ComparedRun(
            folder, name, f"run-{i}", _kind(folder), _flags_by_name(folder), _curves_of(folder)
        )
        for i, (folder, name) in enumerate(zip(folders, names, strict=True), 1)
    ]


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path, as few as tell them apart."""
    length = 1
    while len({path.parts[-length:] for path in paths}) < len(paths):
        length += 1
    return ["/".join(path.parts[-length:]) for path in paths]


def _kind(run: RunDir) -> str:
    """The script of a run, by the command in flags.txt."""
    flags = run.read_flags()
    # The arguments may name other runs.
    found = _SCRIPT.search(flags.command.partition("--")[0]) if flags else None
    return found[1] if found else "other runs"


def _flags_by_name(run: RunDir) -> dict[str, str]:
    """Flags of a run; a switch is "true" or "false", and what is given several times a list."""
    found: dict[str, str] = {}
    for name, value in flags_of_folder(run):
        if not value:
            off = name.startswith("no")
            name, value = (name[2:], "false") if off else (name, "true")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _curves_of(run: RunDir) -> tuple[str, np.ndarray, list[Panel]] | None:
    try:
        return read_panels(run.log)
    except (FileNotFoundError, ValueError):
        return None


def notes(kinds: Mapping[str, Sequence[ComparedRun]]) -> list[str]:
    """Notes on how comparable the runs are, a sentence each."""
    notes = []
    if len(kinds) > 1:
        of = [f"{kind} ({listed([run.name for run in alike])})" for kind, alike in kinds.items()]
        notes.append(
            f"These runs are of different scripts: {'; '.join(of)}. Their losses and accuracies are not "
            "comparable, so each has curves and tables of its own."
        )
    for alike in kinds.values():
        for name, why in _OF_CURVES.items():
            values = dict.fromkeys(run.flags.get(name, "not set") for run in alike if run.flags)
            if len(values) > 1:
                notes.append(f"--{name} differs ({listed(list(values))}): {why}.")
    return notes


def listed(names: Sequence[str]) -> str:
    """Join names as "a, b and c"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
