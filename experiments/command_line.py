"""Command line of the scripts: one-sentence errors, exit statuses, recipes and follow-up commands."""

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import keras
from absl import app, flags
from recipe_names import expand_recipes

from nepa_keras import NonFiniteError, backends
from nepa_keras.data import BadImagesError, ImageError, NetworkError
from nepa_keras.training import (
    CheckpointMismatchError,
    OtherRunError,
    Preempted,
    RunDir,
    check_trackers,
)

# Exit statuses; 1, as from Python itself, stands for wrong flags and inputs.
NOT_FINITE, BAD_DATA, NOT_SAVED, SAVED_EARLY = 3, 4, 5, 75
_COMMAND = "nepa-keras"  # installed with the package, see nepa_keras_cli
_HELP = {"help", "helpshort", "helpfull", "helpxml", "?"}  # flags of absl


def run(main: Callable[..., None], names: str = "") -> None:
    """Run a script: parse its flags, then call its main function.

    Args:
        main: main function of the script, called without arguments, or with the list of positional arguments
            if the script takes some.
        names: positional arguments for the usage message, such as "RUN RUN..."; default none are accepted.
    """

    def checked(argv: list[str]) -> None:
        if names and len(argv) < 2:
            command = shlex.join(by_command(argv[0]) or [Path(argv[0]).name])
            end(1, f"{names.split()[0]} is missing; the command is {command} {names}")
        if len(argv) > 1 and not names:
            end(1, f"Flags start with --; this does not: {argv[1]}")
        try:
            main(*[argv[1:]] if names else [])
        except OSError as error:  # not handled by a more specific message
            end(NOT_SAVED, sentence(error))

    given = ["--help" if argument == "-h" else argument for argument in sys.argv[1:]]
    try:
        # The --recipe of plan.py is no flag file, and may be given several times.
        by_file = "recipe" in flags.FLAGS and flags.FLAGS["recipe"].flag_type() == "string"
        sys.argv[1:] = expand_recipes(given) if by_file else given
    except ValueError as error:
        end(1, error)
    app.run(checked, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    """Parse by absl, then set the folder of compiled code, before TensorFlow initializes its devices."""
    try:
        rest = app.parse_flags_with_usage(argv)
    except SystemExit:
        if _HELP & {argument.lstrip("-") for argument in argv if argument.startswith("-")}:
            sys.exit(0)  # absl exits with 1, the status of a mistake
        raise
    if "run_dir" in flags.FLAGS and flags.FLAGS.run_dir:
        backends.keep_compiled(RunDir(flags.FLAGS.run_dir).compiled)
    return rest


def end(status: int, reason: object) -> None:
    """End the program with an exit status and a one-sentence reason on standard error."""
    print(f"{Path(sys.argv[0]).name}: {reason}", file=sys.stderr)
    sys.exit(status)


@contextmanager
def user_errors():
    """Context that ends the program with the error's message, without a traceback, if an input is refused.

    Use it around set-up from flags only: an error in training itself should keep its traceback.
    """
    try:
        yield
    except (ValueError, ImportError, OSError) as error:
        end(1, sentence(error))


def sentence(error: Exception) -> str:
    """Message of an error; for errors of the operating system "FILE: REASON", without the error number."""
    if isinstance(error, FileExistsError) and error.filename is not None:
        return f"{error.filename} is a file, where a folder is needed; name another place."
    if isinstance(error, NotADirectoryError) and error.filename is not None:
        return f"{error.filename} lies below a file, not a folder; name another place."
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


@contextmanager
def exit_with_status(batches=None):
    """Context that ends the program with one sentence and a specific status if its work cannot continue.

    Args:
        batches: `AugmentedBatches` of a resumable run. Their `failure` is the original error, which
            TensorFlow replaces by an error of its own.
    """
    again = "the same command resumes"
    endings = {
        BadImagesError: (BAD_DATA, ""),
        ImageError: (BAD_DATA, ""),
        NetworkError: (
            BAD_DATA,
            " The same command resumes from the last checkpoint." if batches else "",
        ),
        NonFiniteError: (NOT_FINITE, ""),
        Preempted: (SAVED_EARLY, f"; {again}"),
        CheckpointMismatchError: (1, ""),
        OtherRunError: (1, ""),
        OSError: (
            NOT_SAVED,
            f"; with room and permission to write, {again} from the last checkpoint"
            if batches
            else "",
        ),
    }
    try:
        yield
    except Exception as error:
        failure = getattr(batches, "failure", None) or error
        for kind, (status, more) in endings.items():
            if isinstance(failure, kind):
                end(status, f"{sentence(failure)}{more}")
        raise


def check_file_to_write(flag: str, name: str | None) -> None:
    """Make the folder of a file, and notice before the work that the file cannot be written after it.

    Args:
        flag: that names it.
        name: of the file; None or "" where none is to be written.

    Raises:
        ValueError: it is a folder, or there is no permission to write it.
        OSError: its folder cannot be made.
    """
    if not name:
        return
    path = Path(name).expanduser()
    if path.is_dir():
        raise ValueError(f"{flag}={name} is a folder; name a file, such as {flag}={path / 'NAME'}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{flag}={name} cannot be written: there is no permission to.")


def by_command(script: str) -> list[str] | None:
    """Words that start a script through `nepa-keras`, if this one was started so; else None."""
    if not getattr(sys.modules["__main__"], "BY_COMMAND", False):
        return None
    module = [sys.orig_argv[0], "-m", "nepa_keras"]
    return [*([_COMMAND] if shutil.which(_COMMAND) else module), Path(script).stem]


def next_command(script: str, **flags: object) -> str:
    """Shell command for another script of this folder, on the same backend, ready to paste."""
    words = by_command(script) or [sys.orig_argv[0], str(Path(sys.argv[0]).with_name(script))]
    words += [f"--{name}={value}" for name, value in flags.items()]
    return f"KERAS_BACKEND={keras.backend.backend()} {shlex.join(words)}"


def require_experiments_extra() -> None:
    """Check at the start, not after hours, that the packages of the scripts are installed.

    Raises:
        ImportError: a package is missing; the message names it and the extra that installs it.
        ValueError: --tracker has an unknown name.
    """
    if "tracker" in flags.FLAGS:
        check_trackers(flags.FLAGS.tracker)
    for package in ("matplotlib", "sklearn", "tensorboardX"):
        if find_spec(package) is None:
            raise ImportError(
                f"{package} is missing; pip install 'nepa_keras[experiments]' brings it."
            )
