"""Labelled images of a study, read into memory."""

import numpy as np
from inputs import check_data, open_labelled, test_split, with_classes_of_model
from label_flags import source_options

from nepa_keras import data
from nepa_keras.data.sources import IN_MEMORY

_MOST = 4e9  # largest size of the images in memory, in bytes
_TEST_SHARE = 0.2


def labelled_images(
    name: str, test_name: str | None, data_dir: str | None, image_shape: tuple[int, int, int]
) -> data.ImageArrays:
    """Load a data set by name, or the images of a source, resized and centre-cropped.

    Args:
        name: value of --data.
        test_name: value of --test_data; default the data set's own test images, or a fifth of each class.
        data_dir: value of --data_dir, for a data set in memory.
        image_shape: (height, width, channels) of images from a source; a data set in memory keeps its own.

    Raises:
        ValueError: unknown source, no labels, different classes in training and test, or too many images for
            memory.
    """
    check_data("--data", name)
    if name in IN_MEMORY:
        if test_name:
            raise ValueError(f"--data={name} has its own test images; leave out --test_data.")
        return data.load(name, data_dir)
    source = open_labelled("--data", name, "train", **source_options(name, test_name))
    names = source.class_names
    count = len(names) if names else int(source.labels.max()) + 1
    if test_name:
        options = source_options(test_name, name)
        test = open_labelled("--test_data", test_name, test_split(test_name), **options)
        test = with_classes_of_model("--test_data", test_name, test, names, count, False)
    else:
        kept, rest = data.held_out(source.labels, _TEST_SHARE, seed=0)
        source, test = data.SubsetSource(source, kept), data.SubsetSource(source, rest)
    needed = (len(source) + len(test)) * float(np.prod(image_shape))
    if needed > _MOST:
        raise ValueError(
            f"--data={name} would fill {needed / 1e9:.1f} GB of memory at {image_shape[0]}x"
            f"{image_shape[1]}, more than the limit of {_MOST / 1e9:.0f} GB; lower --image_size or give "
            "fewer images."
        )
    names = names or tuple(map(str, range(count)))
    return data.ImageArrays(*_read(source, image_shape), *_read(test, image_shape), tuple(names))


def _read(source: data.ImageSource, image_shape) -> tuple[np.ndarray, np.ndarray]:
    """Images (B, height, width, channels) uint8 and their labels, without unreadable images."""
    *size, channels = image_shape
    batches = data.OrderedBatches(
        source, 64, tuple(size), data.CenterCrop(max(size)), channels=channels
    )
    images, labels = [], []
    for pixels, indices in batches:
        images.append(np.round((pixels + 1.0) * 127.5).astype("uint8"))
        labels.append(source.labels[indices])
    return np.concatenate(images), np.concatenate(labels).astype("int32")
