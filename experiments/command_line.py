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


# How a script ended, for the one that started it; wrong flags and inputs are 1, as Python's own.
NOT_FINITE, BAD_DATA, NOT_SAVED, SAVED_EARLY = 3, 4, 5, 75


@contextmanager
def honest_exit(batches=None):
    """Ends the program with one sentence and a status of its own where its work could not go on.

    TensorFlow hands an error of a generator on as one of its own, so `AugmentedBatches` are asked.
    """
    from nepa_keras import NonFiniteError
    from nepa_keras.data import BadImagesError, ImageError
    from nepa_keras.training import OtherModelError, Preempted

    again = "the same command goes on"
    endings = {
        BadImagesError: (BAD_DATA, ""),
        ImageError: (BAD_DATA, ""),
        NonFiniteError: (NOT_FINITE, ""),
        Preempted: (SAVED_EARLY, f"; {again}"),
        OtherModelError: (1, ""),
        OSError: (
            NOT_SAVED,
            f"; with room and permission to write, {again} from the last checkpoint",
        ),
    }
    try:
        yield
    except Exception as error:
        failure = getattr(batches, "failure", None) or error
        for kind, (status, more) in endings.items():
            if isinstance(failure, kind):
                print(f"{Path(sys.argv[0]).name}: {failure}{more}", file=sys.stderr)
                sys.exit(status)
        raise


# What a source has for testing where no split is named; kinds without splits are not here.
_TEST_SPLITS = {
    "imagenet": "val",
    "tfds": "validation",
    "arrow": "validation",
    "parquet": "validation",
}


def test_split(text: str) -> str | None:
    """The split of a source that is for testing; None of one without splits."""
    kind, _, place = text.partition(":")
    return _TEST_SPLITS.get(kind) if place else "test"


def open_labelled(flag: str, text: str, split: str | None, data_dir: str | None):
    """The labelled images of a flag; those without a label are left out, and said so.

    Args:
        split: None for sources without splits.

    Raises:
        ValueError: as `data.open_source`, or there are no labels.
    """
    from nepa_keras import data

    source = data.open_source(text, split or "train", data_dir, with_labels=True)
    labelled = None if source.labels is None else (source.labels >= 0).nonzero()[0]
    if labelled is None or not len(labelled):
        raise ValueError(f"{flag}={text} has no labels.")
    if len(labelled) < len(source):
        print(f"{len(source) - len(labelled)} images of {text} have no label and are left out")
        source = data.SubsetSource(source, labelled)
    return source


def require_experiments_extra() -> None:
    """Fails at the start, not after hours, where a package of the scripts is missing.

    Raises:
        ImportError: it names the package and the extra.
    """
    for package in ("matplotlib", "sklearn", "tensorboardX"):
        if find_spec(package) is None:
            raise ImportError(f"{package} is missing; pip install -e '.[experiments]' brings it.")


flags.disclaim_key_flags()  # what is defined here belongs to the script that asks for it


def define_long_run_flags() -> None:
    """Flags of a script that trains by `fit_steps`."""
    flags.DEFINE_enum(
        "distribute",
        "auto",
        ["auto", "none", "data", "fsdp"],
        "Devices; auto: all, each with its images.",
    )
    flags.DEFINE_string("mesh", None, "Of fsdp: parts of the batch x parts of the weights, as 4x2.")
    flags.DEFINE_integer("keep_last", 2, "Newest checkpoints that stay.", lower_bound=1)
    flags.DEFINE_integer(
        "keep_every",
        None,
        "Steps; at each of these a checkpoint is saved, and stays.",
        lower_bound=1,
    )


# Flags that may change when a run goes on: its numbers do not depend on them.
_OF_A_START = ("run_dir", "distribute", "mesh", "keep_last", "keep_every")


def flags_text(path: Path) -> str:
    """All flags of the script, but for where it runs, as a flag file that repeats it."""
    import keras

    backend = keras.backend.backend()
    lines = [
        f"# KERAS_BACKEND={backend} python {sys.argv[0]} --flagfile={path}",
        f"# keras {keras.__version__}, {backend} {_version(backend)}",
    ]
    for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0]):
        if flag.name not in _OF_A_START and flag.value is not None:
            lines.append(flag.serialize())
    return "\n".join(lines) + "\n"


def repeat_flags(file: Path) -> None:
    """Sets the flags of a run again; those of this command line win.

    Raises:
        ValueError: the file is missing, or has flags that the script lacks.
    """
    if not file.is_file():
        raise ValueError(f"{file} is missing, which has the flags of the run.")
    try:
        flags.FLAGS([sys.argv[0], f"--flagfile={file}", *sys.argv[1:]])
    except flags.Error as error:
        raise ValueError(f"{file}: {error}") from None


def open_run_dir(path: str | Path, number: int = 0) -> Path:
    """Makes the folder of a run, or takes up one of the same flags, and keeps it for this process.

    Args:
        number: of this process; the folder is that of the first, which lets in the others.

    Raises:
        ValueError: it holds a run of other flags.
        BlockingIOError: another process has it.
    """
    from nepa_keras.training import RunLock

    folder = Path(path).expanduser()
    os.makedirs(folder, exist_ok=True)
    if number:
        return folder
    _locks.append(RunLock(folder))
    file = folder / "flags.txt"
    now = flags_text(file)
    if not file.exists():
        unfinished = folder / "unfinished-flags.txt"
        unfinished.write_text(now)
        unfinished.replace(file)
        return folder
    before = file.read_text()
    if different := set(_lines(before)) ^ set(_lines(now)):
        raise ValueError(
            f"--run_dir={folder} holds a run with other flags ({', '.join(sorted(different)[:4])}); name "
            f"another folder, or go on with --flagfile={file}."
        )
    if before.splitlines()[:1] != now.splitlines()[:1]:
        print(f"begun as {before.splitlines()[0][2:]}; another backend draws other random numbers")
    return folder


def start_processes():
    """Joins the processes and devices as --distribute and --mesh say; only the first goes on speaking.

    Returns:
        `Processes`.

    Raises:
        ValueError: see `nepa_keras.distribute`; or each process would name a folder of its own.
    """
    import nepa_keras

    processes = nepa_keras.distribute(flags.FLAGS.distribute, flags.FLAGS.mesh)
    if processes.count > 1 and not flags.FLAGS.run_dir:
        raise ValueError(
            "With several processes --run_dir names the folder that all of them share."
        )
    if processes.number:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  until the process ends
    return processes


_locks = []  # of this process, until it ends


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("--")]


def _version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        try:
            return version(name)
        except ImportError:
            continue
    return "of unknown version"


def describe_batch(batch_size: int, accumulation_steps: int, processes=None) -> str:
    """The effective batch and what it is made of."""
    place = "1 process"
    if processes and processes.devices > 1:
        more = "es" if processes.count > 1 else ""
        place = f"{processes.devices} devices of {processes.count} process{more}"
    batches = "1 batch" if accumulation_steps == 1 else f"{accumulation_steps} batches"
    return (
        f"effective batch {batch_size * accumulation_steps} ({batches} of {batch_size} images an update, "
        f"{place})"
    )


# Flags that say where, not how: of data, folders, speed and what is measured.
_NOT_OF_A_RECIPE = (
    "model data data_dir validation_data validation_split validation_share channels bad_images "
    "bad_images_share run_dir distribute mesh keep_last keep_every replay remat jit_compile seed evaluate "
    "monitor_images finetune_steps finetune_learning_rate"
).split()


def departures(recipe: Path, key_flags, values: dict) -> list[str]:
    """In which flags this run is not the recipe of a flag file, as "name value (there value)".

    Args:
        recipe: a flag file of the script; where it is silent it means the defaults.
        key_flags: of the script.
        values: to compare in place of flags, such as the effective batch size.
    """
    recipes = {flag.name: flag.default for flag in key_flags}
    for line in recipe.read_text().splitlines():
        if line.startswith("--"):
            name, given, text = line[2:].strip().partition("=")
            if given:
                recipes[name] = flags.FLAGS[name].parser.parse(text)
            else:  # a boolean, or its negation
                on = name in flags.FLAGS
                recipes[name if on else name.removeprefix("no")] = on
    mine = {flag.name: values.get(flag.name, flag.value) for flag in key_flags}
    return [
        f"{name} {mine[name]} (there {recipes[name]})"
        for name in mine
        if name not in _NOT_OF_A_RECIPE and mine[name] != recipes[name]
    ]


def warn_of_departures(script: str, backbone, effective_batch: int, **values) -> None:
    """Prints where a run of a model of the paper's sizes is not the paper's recipe for it.

    Args:
        values: what flags came to.
    """
    sizes = {768: "base", 1024: "large"}
    if backbone.hidden_dim not in sizes:
        return
    recipe = Path(__file__).parent / "recipes" / f"{script}_{sizes[backbone.hidden_dim]}.flags"
    # What counts is the batch of an update, however it is made up.
    values |= {"batch_size": effective_batch, "accumulation_steps": 1}
    key_flags = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    if different := departures(recipe, key_flags, values):
        print(f"not as in recipes/{recipe.name}: {'; '.join(different)}\n")
