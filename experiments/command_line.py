"""What the scripts share on the command line: one sentence for a wrong input, and the flags kept."""

import copy
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


def departures(recipe: Path, values: dict | None = None) -> list[str]:
    """In which flags this run is not the recipe of a flag file, as "name value (recipe's)".

    Args:
        recipe: a flag file of the script; what it says of data and folders is left out.
        values: to compare in place of flags, such as the effective batch size.
    """
    values = values or {}
    lines = [line.strip() for line in recipe.read_text().splitlines() if line.startswith("--")]
    known = flags.FlagValues()
    for name in flags.FLAGS:
        known[name] = copy.deepcopy(flags.FLAGS[name])
    known.unparse_flags()
    known(["recipe", *lines])
    named = {line[2:].partition("=")[0] for line in lines}
    different = []
    for name in sorted(n if n in flags.FLAGS else n.removeprefix("no") for n in named):
        mine, recipes = values.get(name, flags.FLAGS[name].value), known[name].value
        if mine != recipes:
            different.append(f"{name} {mine} (there {recipes})")
    return different


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
