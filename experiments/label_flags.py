"""Flags that say where a source has its images and labels: columns, folders, several labels an image."""

from absl import flags

from nepa_keras.data.sources import TABLES

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # what is defined here belongs to the script that asks for it

# Flag -> kinds of sources that it is for.
_OF_KINDS = {
    "data_dir": ("tfds", "fashion_mnist", "csv"),
    "image_column": TABLES,
    "label_column": TABLES,
    "nested_classes": ("folder",),
}
_OF_SEVERAL = ("multi_label", "label_separator")
NAMES = (*_OF_KINDS, *_OF_SEVERAL)


def define_label_flags(labels: bool = True, several: bool = False) -> None:
    """Flags of columns and folders.

    Args:
        labels: whether the script reads labels.
        several: whether it reads several labels an image.
    """
    flags.DEFINE_string(
        "image_column",
        None,
        "Column of csv, parquet and arrow, or data set of h5, that holds the images or their paths; default "
        "found by its name.",
    )
    if not labels:
        return
    flags.DEFINE_string(
        "label_column",
        None,
        "Column of csv, parquet and arrow, or data set of h5, that holds the labels; default found by its "
        "name.",
    )
    flags.DEFINE_boolean(
        "nested_classes",
        False,
        "Each folder of folder:PATH that holds images is a class, named by its path; default the folders "
        "directly below PATH are.",
    )
    if several:
        flags.DEFINE_boolean(
            "multi_label",
            False,
            "An image may show several classes, or none (every source but folder, imagenet and those in "
            "memory): probabilities of each class by itself, binary cross-entropy, mean average precision.",
        )
        flags.DEFINE_string(
            "label_separator",
            None,
            "What stands between the labels in a cell of text, such as '|'; with --multi_label.",
        )


def source_options(text: str, *others: str | None) -> dict:
    """Arguments of `data.open_source` for a source, from the flags that were given.

    A flag that is not for a source of this kind is left out where another source is of a kind it is for; else
    `open_source` refuses it.

    Args:
        text: the source, such as "csv:labels.csv".
        others: sources that the same flags are for.
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
    """The flags that open a source again, for a command to paste."""
    return source_options(text, *(f"{kind}:" for kinds in _OF_KINDS.values() for kind in kinds))


def several() -> bool:
    """Whether --multi_label is given, in a script that has it."""
    return "multi_label" in FLAGS and FLAGS.multi_label
