"""What the scripts share on the command line: one sentence for a wrong input, statuses, next commands."""

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

# How a script ended, for the one that started it; wrong flags and inputs are 1, as Python's own.
NOT_FINITE, BAD_DATA, NOT_SAVED, SAVED_EARLY = 3, 4, 5, 75
_COMMAND = "nepa-keras"  # that an installation has, see nepa_keras_cli
_HELP = {"help", "helpshort", "helpfull", "helpxml", "?"}  # flags of absl


def run(main: Callable[..., None], names: str = "") -> None:
    """Run a script, all settings of which are flags.

    Args:
        main: of the script; called with a list of what is no flag where the script takes such `names`.
        names: what they are, for the message where there are none, such as "RUN RUN...".
    """

    def checked(argv: list[str]) -> None:
        if names and len(argv) < 2:
            command = shlex.join(by_command(argv[0]) or [Path(argv[0]).name])
            end(1, f"{names.split()[0]} is missing; the command is {command} {names}")
        if len(argv) > 1 and not names:
            end(1, f"Flags start with --; this does not: {argv[1]}")
        try:
            main(*[argv[1:]] if names else [])
        except OSError as error:  # where no sentence of its own says so
            end(NOT_SAVED, sentence(error))

    given = ["--help" if argument == "-h" else argument for argument in sys.argv[1:]]
    try:
        # That of plan.py is no flag file, and may be given several times.
        by_file = "recipe" in flags.FLAGS and flags.FLAGS["recipe"].flag_type() == "string"
        sys.argv[1:] = expand_recipes(given) if by_file else given
    except ValueError as error:
        end(1, error)
    app.run(checked, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    """Absl's own, then the folder for compiled code, as TensorFlow looks for its devices right after this."""
    try:
        rest = app.parse_flags_with_usage(argv)
    except SystemExit:
        if _HELP & {argument.lstrip("-") for argument in argv if argument.startswith("-")}:
            sys.exit(0)  # absl's own is 1, as of a mistake
        raise
    if "run_dir" in flags.FLAGS and flags.FLAGS.run_dir:
        backends.keep_compiled(RunDir(flags.FLAGS.run_dir).compiled)
    return rest


def end(status: int, reason: object) -> None:
    """End the program with one sentence."""
    print(f"{Path(sys.argv[0]).name}: {reason}", file=sys.stderr)
    sys.exit(status)


@contextmanager
def user_errors():
    """Ends the program with the message alone where the library refuses an input.

    Only for what is set up from flags: an error of the training itself keeps its traceback.
    """
    try:
        yield
    except (ValueError, ImportError, OSError) as error:
        end(1, sentence(error))


def sentence(error: Exception) -> str:
    """The message of an error; of the system's errors the file first, and no number."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


@contextmanager
def exit_with_status(batches=None):
    """Ends the program with one sentence and a status of its own where its work could not go on.

    Args:
        batches: `AugmentedBatches` of a run that resumes, which are asked what failed, as TensorFlow hands
            an error of a generator on as one of its own.
    """
    again = "the same command goes on"
    endings = {
        BadImagesError: (BAD_DATA, ""),
        ImageError: (BAD_DATA, ""),
        NetworkError: (
            BAD_DATA,
            " The same command goes on from the last checkpoint." if batches else "",
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


def by_command(script: str) -> list[str] | None:
    """The words that start a script of this folder where this one was started by `nepa-keras`, else None."""
    if not getattr(sys.modules["__main__"], "BY_COMMAND", False):
        return None
    module = [sys.orig_argv[0], "-m", "nepa_keras"]
    return [*([_COMMAND] if shutil.which(_COMMAND) else module), Path(script).stem]


def next_command(script: str, **flags: object) -> str:
    """A command to paste: another script of this folder, started as this one, on the same backend."""
    words = by_command(script) or [sys.orig_argv[0], str(Path(sys.argv[0]).with_name(script))]
    words += [f"--{name}={value}" for name, value in flags.items()]
    return f"KERAS_BACKEND={keras.backend.backend()} {shlex.join(words)}"


def require_experiments_extra() -> None:
    """Fails at the start, not after hours, where a package of the scripts is missing.

    Raises:
        ImportError: it names the package and the extra; or a package of --tracker.
        ValueError: --tracker has another name.
    """
    if "tracker" in flags.FLAGS:
        check_trackers(flags.FLAGS.tracker)
    for package in ("matplotlib", "sklearn", "tensorboardX"):
        if find_spec(package) is None:
            raise ImportError(
                f"{package} is missing; pip install 'nepa_keras[experiments]' brings it."
            )
