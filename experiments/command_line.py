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


def open_labelled(flag: str, text: str, split: str, data_dir: str | None):
    """The labelled images of a flag; `split` is for sources that have several.

    Raises:
        ValueError: as `data.open_source`, or there are no labels.
    """
    from nepa_keras import data

    if text.partition(":")[0] in ("folder", "tfrecord", "webdataset"):
        split = "train"
    source = data.open_source(text, split, data_dir, with_labels=True)
    if source.labels is None:
        raise ValueError(f"{flag}={text} has no labels.")
    return source


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


def describe_batch(batch_size: int, accumulation_steps: int) -> str:
    """The effective batch and what it is made of."""
    batches = "1 batch" if accumulation_steps == 1 else f"{accumulation_steps} batches"
    return (
        f"effective batch {batch_size * accumulation_steps} ({batches} of {batch_size} images an update, "
        "1 process)"
    )


def departures(recipe: Path, values: dict | None = None) -> list[str]:
    """In which flags this run is not the recipe of a flag file, as "name value (recipe's)".

    Args:
        recipe: a flag file of the script; what it says of data and folders is left out.
        values: to compare in place of flags, such as the effective batch size.
    """
    values = values or {}
    different = []
    for line in recipe.read_text().splitlines():
        if not line.startswith("--"):
            continue
        name, given, text = line[2:].strip().partition("=")
        if given:
            recipes = flags.FLAGS[name].parser.parse(text)
        else:  # a boolean, or its negation
            recipes = name in flags.FLAGS
            name = name if recipes else name.removeprefix("no")
        mine = values.get(name, flags.FLAGS[name].value)
        if mine != recipes:
            different.append(f"{name} {mine} (there {recipes})")
    return different


def warn_of_departures(script: str, backbone, effective_batch: int) -> None:
    """Prints where a run of a model of the paper's sizes is not the paper's recipe for it."""
    sizes = {768: "base", 1024: "large"}
    if backbone.hidden_dim not in sizes:
        return
    recipe = Path(__file__).parent / "recipes" / f"{script}_{sizes[backbone.hidden_dim]}.flags"
    # What counts is the batch of an update, however it is made up.
    effective = {"batch_size": effective_batch, "accumulation_steps": 1}
    if different := departures(recipe, effective):
        print(f"not as in recipes/{recipe.name}: {'; '.join(different)}\n")


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
