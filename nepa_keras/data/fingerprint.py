"""Fingerprint of a set of images, independent of where the set is stored."""

import hashlib
import os

import numpy as np

from nepa_keras.data.sources.base import ImageSource

_MOST_ASKED = 10_000  # images whose name and mark enter the fingerprint


def fingerprint(source: ImageSource) -> str:
    """Number of images and a digest of the set, such as "60,000 images (5f2a09c41b7d)".

    The digest depends on the number of images, the labels, the class names, and the names and marks (see
    `ImageSource.mark`; the size of a file) of up to 10 000 images spread evenly over the set. Moving or
    copying the set between disks does not change it; over the network the ETag of each file is part of it.

    Args:
        source: images, with or without labels.

    Example:
        >>> data.fingerprint(data.open_source("folder:pictures"))
        '8 images (...)'
    """
    digest = hashlib.sha256()
    labels = source.labels if source.labels is not None else np.zeros(0)
    digest.update(repr((len(source), source.class_names)).encode(errors="surrogateescape"))
    digest.update(np.ascontiguousarray(labels, "int64").tobytes())
    chosen = np.unique(np.linspace(0, len(source) - 1, _MOST_ASKED).astype("int64"))
    names = [source.name(int(index)) for index in chosen] if len(source) else []
    common = os.path.commonprefix(names)  # noqa: RUF071  names are text, and not always paths
    place = len(common.rpartition(os.sep)[0])
    for index, name in zip(chosen, names, strict=False):
        digest.update(os.fsencode(name[place:]))
        digest.update(repr(source.mark(int(index))).encode())
    return f"{len(source):,} images ({digest.hexdigest()[:12]})"
