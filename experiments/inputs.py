"""Checks of --data and --model: sources of images, folders of weights, and whether they fit each other."""

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

flags.disclaim_key_flags()  # key flags of the script that calls, not of this module

# Split used for testing if none is named ("test" for other kinds); None for kinds without splits.
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
SEES_MORE = "another --model or a larger --image_size keeps more detail"
_SMALL = 64  # pixels; a photograph resized to this side or less loses most of its detail


def define_classes_flag() -> None:
    """Define --classes_by_number, which matches classes by number instead of name."""
    flags.DEFINE_boolean(
        "classes_by_number",
        False,
        "Match classes by number: class k of the data is class k of the model, whatever their names.",
    )


def check_data(flag: str, text: str) -> None:
    """Check that a text begins with a kind of source, and is not a bare path.

    For data over the network, set up the cache of --cache_dir and --cache_size.

    Args:
        flag: name of the flag, for messages.
        text: value of the flag, such as "folder:PATH".

    Raises:
        ValueError: unknown kind or bare path; the message says what to write. Or --cache_dir is unusable.
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
    """Test split of a source; None for a source without splits."""
    kind, _, place = text.partition(":")
    if not place:
        return "test"
    return _TEST_SPLITS.get(kind) if has_splits(text) else None


def open_labelled(flag: str, text: str, split: str | None, needed: bool = True, **options):
    """Open the labelled images of a flag; print how many are left out because they have no label.

    Args:
        flag: name of the flag, for messages.
        text: source of images.
        split: split to open; None for sources without splits.
        needed: whether a source without any label is refused; if False, it is returned without labels.
        options: arguments of `data.open_source`; see `label_flags.source_options`.

    Raises:
        ValueError: no image has a label, or as `check_data` and `data.open_source`.
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
    """Print notes, one per line."""
    for note in notes:
        print(note)


def say_range(source, value_range) -> None:
    """Print a note if images of more than 8 bits do not use the value range they are mapped from."""
    if note := data.source_range_note(source, value_range):
        print(note)


def check_weights(flag: str, name: str, from_scratch: bool = False) -> None:
    """Check that a name can refer to weights, not to a single file or to an architecture without weights.

    Args:
        flag: name of the flag, for messages.
        name: folder, preset or hf:// address.
        from_scratch: whether an architecture alone is enough.

    Raises:
        ValueError: it cannot; the message says what to give instead.
    """
    if name in PRESETS and name not in RELEASED and not from_scratch:
        scratch = ", or --from_scratch" if "from_scratch" in flags.FLAGS else ""
        scratch = f", or --preset={name} for fresh ones" if "preset" in flags.FLAGS else scratch
        raise ValueError(
            f"{flag}={name} is an architecture without weights; give a folder of weights, such as that "
            f"of a run, or one of {', '.join(RELEASED)}{scratch}."
        )
    check_no_run(flag, name)
    path = Path(name).expanduser()
    if path.suffix == ".keras":
        to = next_command("convert.py", source=name, to="huggingface", output=path.with_suffix(""))
        raise ValueError(f"{flag}={name} must be a folder; this command writes one: {to}")
    if path.is_file():
        raise ValueError(f"{flag}={name} is a file; give its folder, {path.parent}.")
    if path.is_dir() and not (path / CONFIG).exists():
        raise ValueError(f"{flag}={name} holds no weights: {CONFIG} is missing.")


def check_no_run(flag: str, name: str) -> None:
    """Check that a name is not a file inside a run's folder.

    Raises:
        ValueError: it is; the message names the run's folder.
    """
    path = Path(name).expanduser()
    if path.is_file() and (run := RunDir(path.parent)).flags.is_file():
        raise ValueError(f"{flag}={name} is a file of a run; give the run's folder: {flag}={run}.")


def check_averages(flag: str, name: str) -> None:
    """Check that a folder holds averaged (EMA) weights.

    Raises:
        ValueError: it does not.
    """
    path = Path(name).expanduser()
    if path.is_dir() and not (path / EMA).is_file():
        raise ValueError(f"{flag} reads averaged weights, and {name} has no {EMA}; leave it out.")


def check_trained_as(flag: str, name: str, kind: type, words: str, remedy: str) -> None:
    """Check, before weights are read, that they belong to a class of model.

    Args:
        flag: name of the flag, for messages.
        name: folder, preset or hf:// address.
        kind: required class.
        words: name of that class in the message, such as "classifier".
        remedy: how to make such a model, for the message.

    Raises:
        ValueError: they do not, or as `check_weights` and `from_preset`.
    """
    check_weights(flag, name)
    if (found := interop.model_class(name)) is not kind:
        raise ValueError(f"{flag}={name} is a {found.__name__} and no {words}; {remedy}.")


def with_classes_of_model(
    flag: str, text: str, source, names: Sequence[str] | None, count: int, by_number: bool
):
    """Renumber the labels of a source to the classes of a model.

    Args:
        flag: name of the flag, for messages.
        text: value of the flag.
        source: labelled images.
        names: class names of the model, if it has any.
        count: number of the model's classes.
        by_number: value of --classes_by_number: keep the numbers, whatever the names.

    Raises:
        ValueError: the classes do not match the model's.
    """
    ours, theirs = _real_names(names), _real_names(source.class_names)
    shared = set(ours or ()) & set(theirs or ())
    if by_number or (not shared and _wordnet_order(theirs, count)):
        return data.with_classes(source, None, count)
    way_out = "--classes_by_number matches class k of the images with class k of the model"
    if ours and theirs and not shared:
        raise ValueError(
            f"{flag}={text} has the classes {some_names(theirs)}, none of which the model knows: it has "
            f"{some_names(ours)}. {way_out}."
        )
    if not ours and theirs and len(theirs) != count:
        raise ValueError(
            f"{flag}={text} has {len(theirs)} classes ({some_names(theirs)}), the model {count} without "
            f"names. {way_out}."
        )
    return data.with_classes(source, ours, count)


def _real_names(names: Sequence[str] | None) -> Sequence[str] | None:
    """Class names, or None if they are only placeholders (LABEL_0, LABEL_1, ...)."""
    placeholders = names and all(re.fullmatch(r"LABEL_\d+", name) for name in names)
    return None if placeholders else names


def _wordnet_order(names: Sequence[str] | None, count: int) -> bool:
    """Return True if names are `count` WordNet ids, whose sorted order numbers the ImageNet classes."""
    return bool(names) and len(names) == count and all(re.fullmatch(r"n\d{8}", n) for n in names)


def some_names(names: Sequence[str]) -> str:
    """Up to three class names for a message, with an ellipsis for the rest."""
    return ", ".join(names) if len(names) < 4 else f"{names[0]}, {names[1]}, … {names[-1]}"


def say_sight(
    flag: str, text: str, source, channels: int, size: tuple[int, int] | None, remedy: str
) -> None:
    """Print a warning if a model's input loses much of the photographs: their colours or most pixels.

    Args:
        flag: name of the flag, for the message.
        text: value of the flag.
        source: images; the first readable one is examined.
        channels: channels of the model's input.
        size: (height, width) of the model's input; None if images keep their size.
        remedy: what the user can change, for the message.
    """
    pixels = _first_image(source)
    if pixels is None:
        return
    lost = []
    if channels == 1 and (pixels != pixels[..., :1]).any():
        lost.append("in grey")
    if size and max(size) <= _SMALL and min(pixels.shape[:2]) >= 4 * max(size):
        lost.append(f"at {size[0]}x{size[1]}")
    if lost:
        height, width = pixels.shape[:2]
        print(
            f"{flag}={text} has photographs of about {height}x{width} pixels, which this model sees "
            f"{' and '.join(lost)}; {remedy}"
        )


def _first_image(source) -> np.ndarray | None:
    """Pixels of the first readable image as RGB; None if none of the first ten can be read."""
    for index in range(min(len(source), 10)):
        with contextlib.suppress(data.ImageError):
            return data.decode_image(source.read(index), 3)
    return None
