"""What --data and --model name, and whether they are for one another."""

import contextlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from command_line import next_command

from nepa_keras import data, interop
from nepa_keras.data.sources import IN_MEMORY, KINDS, has_splits
from nepa_keras.presets.folder import CONFIG, EMA
from nepa_keras.presets.names import PRESETS, RELEASED
from nepa_keras.training import RunDir

flags.disclaim_key_flags()  # what is defined here belongs to the script that asks for it

# What a source has for testing where no split is named; kinds without splits are not here.
_TEST_SPLITS = {
    "imagenet": "val",
    "tfds": "validation",
    "arrow": "validation",
    "parquet": "validation",
}
_KIND_OF_ENDING = {
    ".parquet": "parquet",
    ".tar": "webdataset",
    ".tfrecord": "tfrecord",
    ".csv": "csv",
    ".tsv": "csv",
    ".h5": "h5",
    ".hdf5": "h5",
}
SEES_MORE = "another --model or a larger --image_size sees more"
_SMALL = 64  # pixels; a model for images of this side sees little of a photograph


def define_classes_flag() -> None:
    """The flag that lets classes of other names pass."""
    flags.DEFINE_boolean(
        "classes_by_number",
        False,
        "Take class k of the images for class k of the model where their names differ.",
    )


def check_data(flag: str, text: str) -> None:
    """Check that a text begins with a kind of source, and is no path without it.

    For data over the network, the cache of --cache_dir and --cache_size is set up.

    Raises:
        ValueError: it says what to write, or that nothing can be kept in --cache_dir.
    """
    kind, path = text.partition(":")[0], Path(text).expanduser()
    if kind in (*IN_MEMORY, *KINDS):
        if "://" in text:
            given = flags.FLAGS.flag_values_dict()
            data.use_cache(given.get("cache_dir"), given.get("cache_size"))
        return
    if path.exists() or "/" in kind or "://" in text:
        meant = _KIND_OF_ENDING.get(path.suffix, "webdataset" if "://" in text else "folder")
        raise ValueError(f"{flag}={text} is a path; write {flag}={meant}:{text}")
    known = ", ".join([*IN_MEMORY, *KINDS.values()])
    raise ValueError(f"{flag}={text} is no source of images; known are {known}.")


def test_split(text: str) -> str | None:
    """The split of a source that is for testing; None of one without splits."""
    kind, _, place = text.partition(":")
    if not place:
        return "test"
    return _TEST_SPLITS.get(kind) if has_splits(text) else None


def open_labelled(flag: str, text: str, split: str | None, needed: bool = True, **options):
    """The labelled images of a flag; those without a label are left out, and said so.

    Args:
        split: None for sources without splits.
        needed: whether to refuse images without labels; else all of them come, without.
        options: of `data.open_source`; see `label_flags.source_options`.

    Raises:
        ValueError: as `check_data` and `data.open_source`, or there are no labels.
    """
    check_data(flag, text)
    source = data.open_source(text, split or "train", with_labels=True, **options)
    if source.multi_label:
        say(source.notes)
        return source
    labelled = None if source.labels is None else (source.labels >= 0).nonzero()[0]
    if labelled is None or not len(labelled):
        if needed:
            raise ValueError(" ".join([f"{flag}={text} has no labels.", *source.notes]))
        source.labels = None
        say(source.notes)
        return source
    say(source.notes)
    if len(labelled) < len(source):
        print(f"{len(source) - len(labelled)} images of {text} have no label and are left out")
        source = data.SubsetSource(source, labelled)
    return source


def say(notes: Iterable[str]) -> None:
    """Print the notes on a source, once, when it is opened."""
    for note in notes:
        print(note)


def say_range(source, value_range) -> None:
    """Say where the values of images of more than 8 bits do not fit the range they are mapped from."""
    if note := data.source_range_note(source, value_range):
        print(note)


def check_weights(flag: str, name: str, from_scratch: bool = False) -> None:
    """Check that a name may be that of weights: no single file, no bare architecture.

    Raises:
        ValueError: it says what to give in its place.
    """
    if name in PRESETS and name not in RELEASED and not from_scratch:
        scratch = ", or --from_scratch" if "from_scratch" in flags.FLAGS else ""
        scratch = f", or --preset={name} for fresh ones" if "preset" in flags.FLAGS else scratch
        raise ValueError(
            f"{flag}={name} is an architecture without weights; name a folder of weights, such as that "
            f"of a run, or one of {', '.join(RELEASED)}{scratch}."
        )
    check_no_run(flag, name)
    path = Path(name).expanduser()
    if path.suffix == ".keras":
        to = next_command("convert.py", source=name, to="huggingface", output=path.with_suffix(""))
        raise ValueError(f"{flag}={name} must be a folder, which this writes: {to}")
    if path.is_file():
        raise ValueError(f"{flag}={name} is a file; name its folder, {path.parent}.")
    if path.is_dir() and not (path / CONFIG).exists():
        raise ValueError(f"{flag}={name} holds no weights: {CONFIG} is missing.")


def check_no_run(flag: str, name: str) -> None:
    """Check that a name is not a file of a run, which is no weights alone.

    Raises:
        ValueError: it is; the run's folder is what to give.
    """
    path = Path(name).expanduser()
    if path.is_file() and (run := RunDir(path.parent)).flags.is_file():
        raise ValueError(f"{flag}={name} is of a run; its weights are {flag}={run}.")


def check_averages(flag: str, name: str) -> None:
    """Check that a folder has averaged weights beside the others.

    Raises:
        ValueError: it has not.
    """
    path = Path(name).expanduser()
    if path.is_dir() and not (path / EMA).is_file():
        raise ValueError(f"{flag} reads averaged weights, and {name} has no {EMA}; leave it out.")


def check_trained_as(flag: str, name: str, kind: type, words: str, remedy: str) -> None:
    """Check that weights are those of a kind of model, before they are read.

    Args:
        kind: class of the model.
        words: what it is, such as "classifier".
        remedy: how one is made.

    Raises:
        ValueError: they are not, or as `check_weights` and `from_preset`.
    """
    check_weights(flag, name)
    if (found := interop.model_class(name)) is not kind:
        raise ValueError(f"{flag}={name} is a {found.__name__} and no {words}; {remedy}.")


def with_classes_of_model(
    flag: str, text: str, source, names: Sequence[str] | None, count: int, by_number: bool
):
    """The labelled images of a flag, their classes numbered as a model's.

    Args:
        names, count: of the model's classes.
        by_number: whether --classes_by_number says that class k is class k, whatever the names.

    Raises:
        ValueError: the classes are not the model's.
    """
    ours, theirs = _real_names(names), _real_names(source.class_names)
    shared = set(ours or ()) & set(theirs or ())
    if by_number or (not shared and _wordnet_order(theirs, count)):
        return data.with_classes(source, None, count)
    way_out = "--classes_by_number takes class k of the images for class k of the model"
    if ours and theirs and not shared:
        raise ValueError(
            f"{flag}={text} has the classes {some_names(theirs)}, none of which the model knows: its own are "
            f"{some_names(ours)}. {way_out}."
        )
    if not ours and theirs and len(theirs) != count:
        raise ValueError(
            f"{flag}={text} has {len(theirs)} classes ({some_names(theirs)}), the model {count} without "
            f"names. {way_out}."
        )
    return data.with_classes(source, ours, count)


def _real_names(names: Sequence[str] | None) -> Sequence[str] | None:
    """Names that say something; None of LABEL_0, LABEL_1 and so on."""
    placeholders = names and all(re.fullmatch(r"LABEL_\d+", name) for name in names)
    return None if placeholders else names


def _wordnet_order(names: Sequence[str] | None, count: int) -> bool:
    """Whether names are as many WordNet ids as the model has classes: all number them in their order."""
    return bool(names) and len(names) == count and all(re.fullmatch(r"n\d{8}", n) for n in names)


def some_names(names: Sequence[str]) -> str:
    """A few of many names."""
    return ", ".join(names) if len(names) < 4 else f"{names[0]}, {names[1]}, … {names[-1]}"


def say_sight(
    flag: str, text: str, source, channels: int, size: tuple[int, int] | None, remedy: str
) -> None:
    """Print what a model sees of photographs where that is little: no colours, or few pixels.

    Args:
        source: of the images; the first that can be read is looked at.
        channels, size: of the model's images; None for one that sees them as large as they are.
        remedy: what changes it.
    """
    pixels = _first_image(source)
    if pixels is None:
        return
    lost = []
    if channels == 1 and (pixels != pixels[..., :1]).any():
        lost.append("in grey")
    if size and max(size) <= _SMALL and min(pixels.shape[:2]) >= 4 * max(size):
        lost.append(f"as {size[0]}x{size[1]}")
    if lost:
        height, width = pixels.shape[:2]
        print(
            f"{flag}={text} has photographs of {height}x{width} pixels and the like, which this model sees "
            f"{' and '.join(lost)}; {remedy}"
        )


def _first_image(source) -> np.ndarray | None:
    """The first image as RGB; None where none of the first few can be read so."""
    for index in range(min(len(source), 10)):
        with contextlib.suppress(data.ImageError):
            return data.decode_image(source.read(index), 3)
    return None
