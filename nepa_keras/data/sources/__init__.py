"""Sources of images, by one line of text each."""

from pathlib import Path

from nepa_keras.data import arrays
from nepa_keras.data.network import scheme
from nepa_keras.data.sources.base import ArraySource, ImageSource
from nepa_keras.data.sources.classes import with_classes
from nepa_keras.data.sources.files import FileSource, folder_source
from nepa_keras.data.sources.imagenet import imagenet_source
from nepa_keras.data.sources.places import files_of
from nepa_keras.data.sources.records import RecordSource
from nepa_keras.data.sources.subset import SubsetSource, held_out
from nepa_keras.data.sources.tables import ArrowSource, ParquetSource
from nepa_keras.data.sources.tars import TarSource
from nepa_keras.data.sources.tfds import tfds_source
from nepa_keras.data.sources.walk import image_files

__all__ = [
    "ArraySource",
    "ArrowSource",
    "FileSource",
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
    "parquet": "parquet:FILES",
    "arrow": "arrow:PATH of save_to_disk",
    "webdataset": "webdataset:FILES",
}
IN_MEMORY = ("embedded", "digits", "fashion_mnist")
OVER_NETWORK = ("tfrecord", "parquet", "webdataset")


def open_source(
    text: str,
    split: str = "train",
    data_dir: str | Path | None = None,
    with_labels: bool = False,
) -> ImageSource:
    """The source that a text such as "folder:/data/images" names.

    FILES is a file, a folder, a pattern with `*`, or a range such as `train-{000..146}.tar`. It may begin
    with gs://, s3:// or another protocol of fsspec, or with https://, by which files are not listed: a file
    or a range. What is read over the network is kept on disk, see `use_cache`.

    Args:
        text: "embedded", "digits", "fashion_mnist", or one of the above kinds and its place.
        split: "train", or what the source has for testing: "test" in memory, "val" of ImageNet, any name of
            tfds, arrow, and of parquet folders with files of that name. Other kinds have one split.
        data_dir: of "fashion_mnist" and "tfds:NAME".
        with_labels: read labels even where that means to pass over all files; elsewhere they come unasked.

    Raises:
        ValueError: unknown kind, nothing there, or no images in it.
        NetworkError: a server does not answer, or will not send parts of files.
        ImportError: a package that the kind needs is missing.
    """
    kind, _, place = text.partition(":")
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
    if data_dir and kind != "tfds":
        raise ValueError(f"{text} says where its data is; data_dir={data_dir} is not for it.")
    if split != "train" and kind in ("folder", "tfrecord", "webdataset"):
        raise ValueError(
            f"{kind} has no splits; name the place of the {split} images in its stead."
        )
    if kind == "folder":
        return folder_source(place, with_labels)
    if kind == "imagenet":
        return imagenet_source(place, split)
    if kind == "tfds":
        return tfds_source(place, split, data_dir, with_labels)
    if kind == "arrow":
        return ArrowSource(place, split, with_labels)
    if kind == "tfrecord":
        return RecordSource(files_of(place, "*tfrecord*"), with_labels=with_labels)
    if kind == "parquet":
        unnamed = ("**/*.parquet",) if split == "train" else ()
        return ParquetSource(files_of(place, f"**/{split}*.parquet", *unnamed), with_labels)
    return TarSource(files_of(place, "*.tar"), with_labels)
