"""A finished run that is given again: noticed by its command, before Keras is imported and a flag defined.

Keras and its backend take seconds to import. A run that ends leaves RUN_DIR/finished.json: its script, the
arguments with recipes and flag files read in, and size and time of the files that the run wrote last. A
command of the same arguments, while the files are as they were, has nothing left to do. Any other is looked
at by `runs.end_if_finished`, which compares all flags.
"""

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from recipe_names import expand_recipes

# Flags that may change when a run goes on: its numbers do not depend on them.
OF_A_START = (
    "run_dir",
    "distribute",
    "mesh",
    "keep_last",
    "keep_every",
    "tracker",
    "cache_dir",
    "cache_size",
)
_MOST_COMMANDS = 8  # that are remembered of one run


def end_if_given_again() -> None:
    """End the program, with status 0, where this command is that of a run that is finished."""
    given = command_line()
    if given is None:
        return
    run_dir, arguments = given
    known = _read(run_dir)
    files = known.get("files", {})
    if (
        known.get("script") == _script()
        and arguments in known.get("commands", [])
        and files
        and files == _states(run_dir, files)
        and known.get("backend") in (None, os.environ.get("KERAS_BACKEND"))
    ):
        print(sentence(run_dir))
        sys.exit(0)


def sentence(run_dir: str | os.PathLike) -> str:
    """What is said of a finished run."""
    return (
        f"{run_dir} is finished: open {Path(run_dir) / 'report.html'} in a browser, or set it beside others "
        "by compare.py. The same command with another --run_dir begins a new run."
    )


def command_line() -> tuple[str, list[str]] | None:
    """The run's folder and the other arguments, recipes and flag files read in.

    Flags of a start are left out. None where no folder is named, or absl cannot read the command line.
    """
    known = flags.FlagValues()
    known.set_gnu_getopt(True)
    for name in OF_A_START:
        flags.DEFINE_string(name, None, "Of a start.", flag_values=known)
    try:
        arguments = [sys.argv[0], *expand_recipes(sys.argv[1:])]
        others = known(arguments, known_only=True)[1:]
    except (flags.Error, ValueError):
        return None
    return (known.run_dir, others) if known.run_dir else None


def remember(
    run_dir: str | os.PathLike,
    commands: Sequence[Sequence[str]],
    files: Sequence[os.PathLike],
    backend: str | None = None,
) -> None:
    """Keep that a run is finished.

    Args:
        run_dir: of the run.
        commands: arguments that stand for it, each as of `command_line`.
        files: in the folder, which the run wrote last.
        backend: with which alone it is finished; default with any.
    """
    held = [list(command) for command in commands]
    before = _read(run_dir)
    held += [
        c for c in before.get("commands", []) if before.get("script") == _script() and c not in held
    ]
    names = [os.path.basename(file) for file in files]
    content = {
        "script": _script(),
        "commands": held[:_MOST_COMMANDS],
        "files": _states(run_dir, names),
        "backend": backend,
    }
    # Without it the same command takes a few seconds more.
    with contextlib.suppress(OSError):
        unfinished = _file(run_dir).with_suffix(".unfinished")
        unfinished.write_text(json.dumps(content, indent=1))
        os.replace(unfinished, _file(run_dir))


def _script() -> str:
    return Path(sys.argv[0]).stem


def _file(run_dir: str | os.PathLike) -> Path:
    return Path(run_dir).expanduser() / "finished.json"


def _read(run_dir: str | os.PathLike) -> dict:
    try:
        known = json.loads(_file(run_dir).read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _states(run_dir: str | os.PathLike, names: Sequence[str]) -> dict[str, list[int]] | None:
    """Size and time of change of files, by name; None where one is missing."""
    try:
        found = {name: (_file(run_dir).parent / name).stat() for name in names}
    except OSError:
        return None
    return {name: [state.st_size, state.st_mtime_ns] for name, state in found.items()}
