"""What the scripts share on the command line: one sentence for a wrong input, and labelled images."""

import sys
from collections.abc import Iterable
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path


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
    from nepa_keras.training import OtherModelError, OtherRunError, Preempted

    again = "the same command goes on"
    endings = {
        BadImagesError: (BAD_DATA, ""),
        ImageError: (BAD_DATA, ""),
        NonFiniteError: (NOT_FINITE, ""),
        Preempted: (SAVED_EARLY, f"; {again}"),
        OtherModelError: (1, ""),
        OtherRunError: (1, ""),
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


def say(notes: Iterable[str]) -> None:
    """Print the notes on a source, once, when it is opened."""
    for note in notes:
        print(note)


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
        raise ValueError(" ".join([f"{flag}={text} has no labels.", *source.notes]))
    say(source.notes)
    if len(labelled) < len(source):
        print(f"{len(source) - len(labelled)} images of {text} have no label and are left out")
        source = data.SubsetSource(source, labelled)
    return source


def say_range(source, value_range) -> None:
    """Say where the values of images of more than 8 bits do not fit the range they are mapped from."""
    from nepa_keras import data

    if note := data.source_range_note(source, value_range):
        print(note)


def require_experiments_extra() -> None:
    """Fails at the start, not after hours, where a package of the scripts is missing.

    Raises:
        ImportError: it names the package and the extra.
    """
    for package in ("matplotlib", "sklearn", "tensorboardX"):
        if find_spec(package) is None:
            raise ImportError(f"{package} is missing; pip install -e '.[experiments]' brings it.")
