"""Flags that locate images and labels in a source: columns, nested folders, several labels per image."""

from absl import flags

from nepa_keras.data.sources import TABLES

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # key flags of the script that calls, not of this module

# Flag -> kinds of sources that it applies to.
_OF_KINDS = {
    "data_dir": ("tfds", "fashion_mnist", "csv"),
    "image_column": TABLES,
    "label_column": TABLES,
    "nested_classes": ("folder",),
}
_OF_SEVERAL = ("multi_label", "label_separator")
NAMES = (*_OF_KINDS, *_OF_SEVERAL)


def define_label_flags(labels: bool = True, several: bool = False) -> None:
    """Define the flags of columns and folders.

    Args:
        labels: whether the script reads labels.
        several: whether it supports several labels per image.
    """
    flags.DEFINE_string(
        "image_column",
        None,
        "Column of a csv, parquet or arrow source, or data set of an h5 file, with the images or their "
        "paths; default the one with a usual name, such as image or path.",
    )
    if not labels:
        return
    flags.DEFINE_string(
        "label_column",
        None,
        "Column of a csv, parquet or arrow source, or data set of an h5 file, with the labels; default the "
        "one with a usual name, such as label.",
    )
    flags.DEFINE_boolean(
        "nested_classes",
        False,
        "Treat each folder below folder:PATH that holds images as a class, named by its relative path; "
        "default only the folders directly below PATH are classes.",
    )
    if several:
        flags.DEFINE_boolean(
            "multi_label",
            False,
            "Multi-label classification: an image may have several classes or none (all sources except "
            "folder, imagenet and those in memory). Trains by binary cross-entropy and reports mean average "
            "precision (mAP).",
        )
        flags.DEFINE_string(
            "label_separator",
            None,
            "Separator of the labels in a text cell, such as '|'; for --multi_label.",
        )


def source_options(text: str, *others: str | None) -> dict:
    """Arguments of `data.open_source` for a source, from the flags that were given.

    A flag that does not apply to this kind of source is left out if it applies to one of the other sources;
    otherwise it is passed on and `open_source` refuses it.

    Args:
        text: source, such as "csv:labels.csv".
        others: other sources that share the flags.
    """
    kind, *kinds = (each.partition(":")[0] for each in (text, *others) if each)
    options = {}
    for name in NAMES:
        if name not in FLAGS or not FLAGS[name].value:
            continue
        known = _OF_KINDS.get(name, (kind,))
        if kind in known or not set(known) & set(kinds):
            options[name] = FLAGS[name].value
    return options


def flags_to_repeat(text: str) -> dict:
    """Flags that open a source again, for a command to paste."""
    return source_options(text, *(f"{kind}:" for kinds in _OF_KINDS.values() for kind in kinds))


def several() -> bool:
    """Return True if the script has --multi_label and it is set."""
    return "multi_label" in FLAGS and FLAGS.multi_label
