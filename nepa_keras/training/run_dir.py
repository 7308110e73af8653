"""The folder of a run and its files.

RUN_DIR/
    flags.txt                 flags that repeat the run; command and versions as comments
    lock                      held by the process that trains
    processes/                counters of several processes, which show that each is alive
    log.csv                   a row for each log interval
    events.out.*              the same for TensorBoard
    trackers.json             the run's ids in other trackers, and the last step sent there
    bad_images.txt            images that could not be read; also bad_validation_images.txt
    checkpoints/              states to resume from, each also a folder to load; see `checkpoints`
    non_finite/               skipped steps, for a replay; see `non_finite`
    compiled/                 the compiler's cache, which speeds up a restart; may be deleted
    checkpoint.keras          at the end: model, optimizer and averages, for `keras.saving.load_model`
    trained/ ema/ best/       weights to load: of the last step, averaged, of the best validation
    int8.keras                the best weights in 8-bit integers, by finetune.py --quantize=int8
    results.json              tables of results, by title
    curves.png *.png *.md     pictures and tables
    report.html               all of it on one page
    finished.json             the scripts' note that the run is finished, with the command
"""

import csv
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nepa_keras.files import replacing


class RunFlags(NamedTuple):
    """Content of flags.txt.

    Attributes:
        command: command that started the run.
        versions: versions of Keras and the backend.
        lines: flags, each "--name=value".
    """

    command: str
    versions: str
    lines: tuple[str, ...]


class RunDir(os.PathLike):
    """Paths in the folder of a run, with methods to read and write its text files.

    Args:
        path: folder, which need not exist.

    Example:
        >>> run = RunDir("runs/first")
        >>> str(run.log)
        'runs/first/log.csv'
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path).expanduser()
        self.flags = self.path / "flags.txt"
        self.log = self.path / "log.csv"
        self.bad_images = self.path / "bad_images.txt"
        self.bad_validation_images = self.path / "bad_validation_images.txt"
        self.checkpoints = self.path / "checkpoints"
        self.non_finite = self.path / "non_finite"
        self.compiled = self.path / "compiled"
        self.processes = self.path / "processes"
        self.model = self.path / "checkpoint.keras"
        self.trained, self.ema, self.best = (self.path / n for n in ("trained", "ema", "best"))
        self.int8 = self.path / "int8.keras"
        self.trackers = self.path / "trackers.json"
        self.results = self.path / "results.json"
        self.curves = self.path / "curves.png"
        self.report = self.path / "report.html"

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def picture(self, name: str) -> Path:
        """Path of a picture by its name."""
        return self.path / f"{name}.png"

    def read_flags(self) -> RunFlags | None:
        """Read flags.txt; None if it is missing."""
        if not self.flags.exists():
            return None
        lines = self.flags.read_text(encoding="utf-8", errors="replace").splitlines()
        command, versions, *_ = [line[1:].strip() for line in lines if line[:1] == "#"] + ["", ""]
        return RunFlags(command, versions, tuple(line for line in lines if line[:2] == "--"))

    def write_flags(self, flags: RunFlags) -> None:
        """Write flags.txt, which the script accepts as --flagfile."""
        text = [f"# {flags.command}", f"# {flags.versions}", *flags.lines]
        with replacing(self.flags) as path:
            path.write_text("\n".join(text) + "\n", encoding="utf-8")

    def read_results(self) -> dict[str, list[list[str]]]:
        """Read the rows of result tables, by title; empty if results.json is missing.

        Raises:
            ValueError: the file is damaged.
        """
        if not self.results.exists():
            return {}
        try:
            tables = json.loads(self.results.read_text(encoding="utf-8"))
            return {
                str(title): [[str(cell) for cell in row] for row in rows]
                for title, rows in tables.items()
            }
        except (ValueError, TypeError, AttributeError):
            raise ValueError(
                f"{self.results} is damaged; delete it and run the same command again."
            ) from None

    def write_results(self, tables: Mapping[str, Sequence[Sequence[str]]]) -> None:
        """Write results.json; the first row of a table is its header."""
        with replacing(self.results) as path:
            path.write_text(json.dumps(tables, indent=1), encoding="utf-8")

    def read_log(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Step and finite numbers of each row of the log; nothing where there is no log."""
        if not self.log.exists():
            return
        with open(self.log, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                values = {name: _number(cell) for name, cell in row.items() if name != "epoch"}
                step = values.pop("step", math.nan)
                if math.isfinite(step):
                    yield int(step), {k: v for k, v in values.items() if math.isfinite(v)}

    def restore_log(self, rows: str) -> bool:
        """Make the log begin with the recorded rows; return True if it did not."""
        content = self.log.read_bytes() if self.log.exists() else b""
        # Keras' CSVLogger ends rows with \r\n, and `rows` were read as text.
        if content.replace(b"\r\n", b"\n").startswith(rows.encode()):
            return False
        with replacing(self.log) as path:
            path.write_text(rows, encoding="utf-8", newline="")
        return True

    def truncate_log(self, step: int) -> None:
        """Remove log rows that a killed run wrote after its checkpoint of a step."""
        if not self.log.exists():
            return
        with open(self.log, newline="") as file:
            rows = list(csv.reader(file))
        column = rows[0].index("step") if rows and "step" in rows[0] else None
        kept = [row for row in rows[1:] if column is not None and _at_most(row, column, step)]
        with replacing(self.log) as path, open(path, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([*rows[:1], *kept])


def _at_most(row: list[str], column: int, step: int) -> bool:
    try:
        return float(row[column]) <= step
    except (IndexError, ValueError):  # a line cut off when the process was killed
        return False


def _number(cell: str | None) -> float:
    try:
        return float(cell or "nan")
    except ValueError:
        return math.nan
