"""Images in HDF5 files (.h5, .hdf5): a data set of pixels or of encoded images, and one of labels."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nepa_keras.data.decode import ImageError
from nepa_keras.data.labels import NAMES
from nepa_keras.data.sources.base import ImageSource, size_of
from nepa_keras.data.sources.columns import ANY, Columns, check_column, labels_of
from nepa_keras.data.sources.walk import listed
from nepa_keras.packages import required_for

_IMAGES = "images image x data pixels pixel_values features".split()
_LABELS = (*NAMES, "y")
_CHANNELS = (1, 3, 4)


class Hdf5Source(ImageSource):
    """Images in a data set of an HDF5 file, read when needed, by one thread at a time.

    The data set is (B, height, width) or (B, height, width, channels) of any integers or floats, see
    `decode_image`, or B encoded images as variable-length uint8.

    Args:
        path: the file.
        with_labels: whether to read the labels: (B,) numbers or texts, or with `columns.multi_label` (B, C)
            zeros and ones.
        columns: names of the data sets of images and labels, such as "train/images"; by default found by
            name.

    Raises:
        ImportError: h5py is missing.
        ValueError: the file or a data set is missing, the file is damaged, or labels are invalid.
    """

    def __init__(self, path: str | Path, with_labels: bool = False, columns: Columns = ANY):
        with required_for("Reading HDF5 files", "h5py"):
            import h5py
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise ValueError(f"There is no file {self.path}; pass an existing one as h5:FILE.")
        try:
            self.file = h5py.File(self.path, "r")
        except OSError as error:
            raise ValueError(f"{self.path} is damaged or not an HDF5 file: {error}.") from None
        found: dict[str, Any] = {}
        self._guarded(
            lambda: self.file.visititems(
                lambda name, node: found.update(
                    {name: node} if isinstance(node, h5py.Dataset) else {}
                )
            )
        )
        self.images = found[self._images(found, columns, h5py)]
        self.encoded = h5py.check_vlen_dtype(self.images.dtype) is not None
        self.lock = threading.Lock()
        if not self.encoded and self.images.chunks and self.images.chunks[0] > 1:
            # Boundaries of HDF5 chunks, which are decompressed as a whole; `epoch_order` keeps them together.
            self.chunks = np.unique([*range(0, len(self), self.images.chunks[0]), len(self)])
        label, labels, names = self._labels(found, columns), None, None
        if with_labels and label is not None:
            labels, names = self._read_labels(found[label], label, columns, h5py)
        super().__init__(labels, names)
        if with_labels and label is None:
            self.notes += (
                f"{self.path} has no data set of labels ({', '.join(_LABELS)}), but {listed(found)}; "
                "--label_column names another.",
            )

    def _images(self, found: dict[str, Any], columns: Columns, h5py) -> str:
        """Name of the data set of images."""
        path = str(self.path)

        def holds_images(node) -> bool:
            return len(node.shape) in (3, 4) or h5py.check_vlen_dtype(node.dtype) == np.uint8

        if columns.image is not None:
            name = check_column(columns.image, "image", list(found), path)
        else:
            names = [name for name, node in found.items() if holds_images(node)]
            known = [n for n in names if n.rpartition("/")[2].lower() in _IMAGES]
            chosen = known if len(known) == 1 else names
            if len(chosen) != 1:
                raise ValueError(
                    f"{path} has {'several data sets' if names else 'no data set'} of images, but "
                    f"{listed(found) or 'nothing'}; name one by --image_column (image_column= in Python)."
                )
            (name,) = chosen
        node = found[name]
        if not holds_images(node) or not len(node):
            raise ValueError(
                f"{path}, {name} has the shape {node.shape} of {node.dtype}; images are (B, height, width), "
                "(B, height, width, channels), or B encoded images (variable-length uint8)."
            )
        if node.ndim == 4 and node.shape[1] in _CHANNELS and node.shape[3] not in _CHANNELS:
            raise ValueError(
                f"{path}, {name} has the shape {node.shape}: channels come last here; store it transposed, "
                "by numpy.moveaxis(images, 1, -1)."
            )
        return name

    def _labels(self, found: dict[str, Any], columns: Columns) -> str | None:
        """Name of the data set of labels: the given one, or one of the known names beside the images."""
        if columns.label is not None:
            return check_column(columns.label, "label", list(found), str(self.path))
        place = self.images.name.strip("/").rpartition("/")[0]
        beside = {
            name.rpartition("/")[2].lower(): name
            for name in found
            if name.rpartition("/")[0] == place and len(found[name].shape) in (1, 2)
        }
        return next((beside[name] for name in _LABELS if name in beside), None)

    def _read_labels(self, node, name: str, columns: Columns, h5py):
        if h5py.check_string_dtype(node.dtype) is not None:
            values = self._guarded(lambda: node.asstr()[...])
        else:
            values = self._guarded(lambda: node[...])
        if len(values) != len(self):
            raise ValueError(
                f"{self.path}, {name} has {len(values):,} labels for {len(self):,} images."
            )
        if columns.multi_label and values.ndim == 2:
            return values, None
        return labels_of(values, columns, lambda i: f"{self.path}, {name}, row {i}")

    def _guarded(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"{self.path} is damaged: {error}.") from None

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> bytes | np.ndarray:
        try:
            with self.lock:
                value = self.images[int(index)]
        except (OSError, RuntimeError, ValueError) as error:
            raise ImageError(f"damaged data set: {error}") from None
        return value.tobytes() if self.encoded else value

    def name(self, index: int) -> str:
        return f"{self.path}, {self.images.name.strip('/')}, row {index}"

    def mark(self, index: int) -> object:
        return size_of(self.path)
