"""Sources of images, each opened by a short text such as "folder:PATH"."""

from pathlib import Path

from nepa_keras.data import arrays
from nepa_keras.data.network import scheme
from nepa_keras.data.sources.base import ArraySource, ImageSource
from nepa_keras.data.sources.classes import with_classes
from nepa_keras.data.sources.columns import Columns
from nepa_keras.data.sources.csv_files import csv_source
from nepa_keras.data.sources.files import FileSource, folder_source
from nepa_keras.data.sources.hdf5 import Hdf5Source
from nepa_keras.data.sources.imagenet import imagenet_source
from nepa_keras.data.sources.places import files_of, names_files
from nepa_keras.data.sources.records import RecordSource
from nepa_keras.data.sources.subset import SubsetSource, held_out
from nepa_keras.data.sources.tables import STATE, ArrowSource, ParquetSource
from nepa_keras.data.sources.tars import TarSource
from nepa_keras.data.sources.tfds import tfds_source
from nepa_keras.data.sources.walk import image_files

__all__ = [
    "ArraySource",
    "ArrowSource",
    "FileSource",
    "Hdf5Source",
    "ImageSource",
    "ParquetSource",
    "RecordSource",
    "SubsetSource",
    "TarSource",
    "held_out",
    "image_files",
    "open_source",
    "with_classes",
]

KINDS = {
    "folder": "folder:PATH",
    "imagenet": "imagenet:PATH with train/ and val/",
    "tfds": "tfds:NAME, prepared below data_dir",
    "tfrecord": "tfrecord:FILES",
    "csv": "csv:FILE of paths and labels",
    "h5": "h5:FILE",
    "parquet": "parquet:FILES",
    "arrow": "arrow:PATH of save_to_disk",
    "webdataset": "webdataset:FILES",
}
TABLES = ("csv", "h5", "parquet", "arrow")  # kinds whose columns can be chosen
OF_SEVERAL = (
    *TABLES,
    "tfrecord",
    "tfds",
    "webdataset",
)  # kinds that may have several labels per image
WITHOUT_SPLITS = ("folder", "csv", "h5", "tfrecord", "webdataset")
IN_MEMORY = ("embedded", "digits", "fashion_mnist")
OVER_NETWORK = ("tfrecord", "parquet", "webdataset")


def open_source(
    text: str,
    split: str = "train",
    data_dir: str | Path | None = None,
    with_labels: bool = False,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    multi_label: bool = False,
    label_separator: str | None = None,
    nested_classes: bool = False,
) -> ImageSource:
    """Open the source of images that a text such as "folder:/data/images" names.

    FILES is a file, a folder, a pattern with `*`, or a range such as `train-{000..146}.tar`. It may be an
    address that starts with gs://, s3:// or another protocol of fsspec, or with https://, where only a file
    or a range is possible, as such servers do not list files. What is read over the network is kept on disk,
    see `use_cache`.

    Args:
        text: "embedded", "digits", "fashion_mnist", or one of the kinds above with its place.
        split: "train", or the source's split for testing: "test" in memory, "val" of ImageNet, any name of
            tfds, arrow, and of parquet folders with files of that name. Other kinds have one split.
        data_dir: folder of "fashion_mnist" and "tfds:NAME"; for "csv:FILE" the folder to which its paths are
            relative, by default that of the file.
        with_labels: whether to read labels even if all files must be scanned for them; otherwise labels are
            read where that costs nothing.
        image_column, label_column: columns of csv, parquet and arrow, data sets of h5; by default found by
            name.
        multi_label: whether to read several labels per image; not for folder, imagenet and sets in memory.
        label_separator: text between the labels in a cell, such as "|"; by default a cell is one label.
        nested_classes: for folder: whether each folder that holds images, at any depth, is a class, named by
            its path; by default each folder directly below PATH is a class.

    Raises:
        ValueError: the kind is unknown, or nothing is there, or it holds no images.
        NetworkError: a server does not answer, or does not send parts of files.
        ImportError: a package that the kind needs is missing.

    Example:
        >>> source = data.open_source("folder:pictures", with_labels=True)
        >>> len(source), source.class_names, source.labels.tolist()
        (8, ('cats', 'dogs'), [0, 0, 0, 0, 1, 1, 1, 1])
    """
    kind, _, place = text.partition(":")
    columns = Columns(image_column, label_column, multi_label, label_separator)
    _check_options(text, kind, columns, nested_classes)
    if kind in IN_MEMORY and not place:
        held = arrays.load(kind, data_dir)
        if split not in ("train", "test"):
            raise ValueError(f"{kind} has the splits train and test, not {split!r}.")
        if split == "train":
            return ArraySource(held.train_images, held.train_labels, held.class_names)
        return ArraySource(held.test_images, held.test_labels, held.class_names)
    if scheme(place) and kind in KINDS and kind not in OVER_NETWORK:
        raise ValueError(
            f"{kind} reads no files over the network, such as {place}; "
            f"{', '.join(KINDS[each] for each in OVER_NETWORK)} do."
        )
    if kind not in KINDS or not place:
        known = ", ".join([*IN_MEMORY, *KINDS.values()])
        raise ValueError(f"There is no source of images {text!r}; known are {known}.")
    if data_dir and kind not in ("tfds", "csv"):
        raise ValueError(f"{text} names the place of its data; leave out data_dir={data_dir}.")
    if split != "train" and not has_splits(text):
        what = kind if kind in WITHOUT_SPLITS else text
        raise ValueError(f"{what} has no splits; name the place of the {split} images instead.")
    if kind == "folder":
        return folder_source(place, with_labels, nested_classes)
    if kind == "imagenet":
        return imagenet_source(place, split)
    if kind == "tfds":
        return tfds_source(place, split, data_dir, with_labels, columns)
    if kind == "csv":
        return csv_source(place, data_dir, columns, with_labels)
    if kind == "h5":
        return Hdf5Source(place, with_labels, columns)
    if kind == "arrow":
        return ArrowSource(place, split, with_labels, columns)
    if kind == "tfrecord":
        return RecordSource(files_of(place, "*tfrecord*"), None, with_labels, columns)
    if kind == "parquet":
        unnamed = ("**/*.parquet",) if split == "train" else ()
        files = files_of(place, f"**/{split}*.parquet", *unnamed)
        return ParquetSource(files, with_labels, columns)
    return TarSource(files_of(place, "*.tar"), with_labels, columns)


def has_splits(text: str) -> bool:
    """True if a source may have other images under another split, and its text does not name all of them.

    Args:
        text: see `open_source`.
    """
    kind, _, place = text.partition(":")
    if kind == "parquet":
        return not names_files(place)
    if kind == "arrow":
        return not (Path(place).expanduser() / STATE).exists()
    return kind not in WITHOUT_SPLITS


def _check_options(text: str, kind: str, columns: Columns, nested_classes: bool) -> None:
    """Refuse what is said of columns or folders to a source that has none."""
    if columns.multi_label and kind not in OF_SEVERAL:
        raise ValueError(
            f"{text} has one class an image; several (multi_label, --multi_label) are read from "
            f"{', '.join(OF_SEVERAL)}: list the images with their labels in a file, csv:FILE."
        )
    if kind not in TABLES:
        for name in ("image", "label"):
            if given := getattr(columns, name):
                raise ValueError(
                    f"{text} has no columns, so {name}_column={given} (--{name}_column) is not for it; csv, "
                    "h5, parquet and arrow have."
                )
    if columns.separator and not columns.multi_label:
        raise ValueError(
            f"label_separator={columns.separator!r} (--label_separator) is for several labels an image; add "
            "multi_label=True (--multi_label)."
        )
    if nested_classes and kind != "folder":
        raise ValueError(f"nested_classes (--nested_classes) is for folder:PATH, not for {text}.")
