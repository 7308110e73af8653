"""What the scripts share on the command line: one sentence for a wrong input, and the flags kept."""

import os
import sys
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from absl import flags


@contextmanager
def one_sentence():
    """Ends the program with the message alone where the library refuses an input.

    Only for what is set up from flags: an error of the training itself keeps its traceback.
    """
    try:
        yield
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


@contextmanager
def data_failures(batches):
    """Ends the program with one sentence where `AugmentedBatches` could not go on.

    TensorFlow hands an error of a generator on as one of its own, so the batches are asked.
    """
    try:
        yield
    except Exception:
        if batches.failure is None:
            raise
        sys.exit(f"{Path(sys.argv[0]).name}: {batches.failure}")


def require_experiments_extra() -> None:
    """Fails at the start, not after hours, where a package of the scripts is missing.

    Raises:
        ImportError: it names the package and the extra.
    """
    for package in ("matplotlib", "sklearn", "tensorboardX"):
        if find_spec(package) is None:
            raise ImportError(f"{package} is missing; pip install -e '.[experiments]' brings it.")


def write_flags(path: Path) -> None:
    """Writes all flags of the script, but for the run directory, as a flag file that repeats it."""
    import keras

    backend = keras.backend.backend()
    package = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}[backend]
    lines = [
        f"# KERAS_BACKEND={backend} python {sys.argv[0]} --flagfile={path}",
        f"# keras {keras.__version__}, {package} {_version(package)}",
    ]
    for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]):
        if flag.name != "run_dir" and flag.value is not None:
            lines.append(flag.serialize())
    path.write_text("\n".join(lines) + "\n")


def _version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        try:
            return version(name)
        except ImportError:
            continue
    return "of unknown version"


def new_run_dir(path: str) -> Path:
    """Makes the folder of a run.

    Raises:
        ValueError: it holds a run already.
    """
    folder = Path(path).expanduser()
    if (folder / "flags.txt").exists():
        raise ValueError(
            f"--run_dir={folder} holds a run already and is left as it is; name another folder."
        )
    os.makedirs(folder, exist_ok=True)
    return folder
