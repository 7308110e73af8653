"""Quick check, before Keras is imported, whether the command is that of a finished run.

Keras and its backend take seconds to import. A run that ends writes RUN_DIR/finished.json: its script, its
arguments with recipes and flag files expanded, and size and modification time of the files written last. If
the arguments are the same and the files unchanged, nothing is left to do. Otherwise `runs.end_if_finished`
compares all flags.
"""

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from recipe_names import expand_recipes

# Flags that may change when a run resumes, as its results do not depend on them.
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
_MOST_COMMANDS = 8  # largest number of commands remembered for a run


def end_if_given_again() -> None:
    """End the program with status 0 if this command is that of a finished run."""
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
    """Message for the command of a finished run."""
    return (
        f"{run_dir} is finished: open {Path(run_dir) / 'report.html'} in a browser, or compare it with other "
        "runs by compare.py. The same command with another --run_dir begins a new run."
    )


def command_line() -> tuple[str, list[str]] | None:
    """Folder of the run and the other arguments, recipes and flag files expanded.

    The flags in `OF_A_START` are left out.

    Returns:
        None if --run_dir is missing or absl cannot parse the command line, as with an unknown recipe.
    """
    known = flags.FlagValues()
    known.set_gnu_getopt(True)
    for name in OF_A_START:
        flags.DEFINE_string(name, None, "Flag of OF_A_START.", flag_values=known)
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
    """Record that a run is finished.

    Args:
        run_dir: folder of the run.
        commands: argument lists that stand for the run, each as from `command_line`.
        files: files in the folder that the run wrote last.
        backend: the only backend for which the run is finished; default all.
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
    # If it cannot be written, the same command only takes a few seconds longer.
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
    """Size in bytes and modification time in ns of files, by name; None if one is missing."""
    try:
        found = {name: (_file(run_dir).parent / name).stat() for name in names}
    except OSError:
        return None
    return {name: [state.st_size, state.st_mtime_ns] for name, state in found.items()}
