"""Data sets of images that fit into memory."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nepa_keras.data.idx import FILES, read_fashion_mnist
from nepa_keras.data.labels import class_numbers

EMBEDDED_FILE = Path(__file__).parent / "files" / "fashion_mnist_12k.npz"
EMBEDDED_SHA256 = "cef5c2fec94a10128005e5be3e8fc6bdea2f3db6a252eaa752aeb4a3cf76fc7e"
FASHION_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


@dataclass(frozen=True)
class ImageArrays:
    """Images uint8 (B, height, width, channels) and labels int32 (B,), for training and test.

    Attributes:
        train_images, train_labels, test_images, test_labels: the arrays.
        class_names: name of each class.

    Example:
        >>> arrays = data.load("embedded")
        >>> arrays.train_images.shape, arrays.test_labels.shape
        ((10000, 28, 28, 1), (2000,))
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]


def load(name: str = "embedded", data_dir: str | Path | None = None) -> ImageArrays:
    """Load a data set of images by name.

    Args:
        name: "embedded" (10,000 + 2,000 images of Fashion-MNIST, part of the package), "digits"
            (scikit-learn's 8x8 scans, 1,437 + 360) or "fashion_mnist" (all 60,000 + 10,000).
        data_dir: folder of the four official .gz files of "fashion_mnist"; without it Keras
            downloads them.

    Raises:
        ValueError: the name is unknown, or the files are missing or damaged.
    """
    loaders = {"embedded": _embedded, "digits": _digits}
    if name == "fashion_mnist":
        return _fashion_mnist(data_dir)
    if name not in loaders:
        raise ValueError(
            f"There is no in-memory data set {name!r}; choose embedded, digits or fashion_mnist."
        )
    if data_dir:
        raise ValueError(f"The data set {name!r} is built in and reads no data_dir ({data_dir}).")
    return loaders[name]()


def _with_channels(arrays: dict[str, np.ndarray], class_names) -> ImageArrays:
    def part(name: str) -> tuple[np.ndarray, np.ndarray]:
        images, labels = arrays[f"{name}_images"], arrays[f"{name}_labels"]
        if images.ndim != 3 or len(images) != len(labels):
            raise ValueError(
                f"{name}: {len(labels)} labels are not those of images of shape {images.shape}; download the "
                "files again."
            )
        return images[..., None], class_numbers(labels, f"{name} label {{}}".format, class_names)[0]

    return ImageArrays(*part("train"), *part("test"), tuple(class_names))


def _embedded() -> ImageArrays:
    content = EMBEDDED_FILE.read_bytes()
    if hashlib.sha256(content).hexdigest() != EMBEDDED_SHA256:
        raise ValueError(f"{EMBEDDED_FILE} is damaged (wrong checksum); reinstall nepa_keras.")
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return _with_channels(dict(file), FASHION_CLASSES)


def _digits() -> ImageArrays:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    # Scans of one writer follow one another; the test split is the end, so that its writers are others.
    split = len(images) * 4 // 5
    arrays = {
        "train_images": images[:split],
        "train_labels": digits.target[:split],
        "test_images": images[split:],
        "test_labels": digits.target[split:],
    }
    return _with_channels(arrays, [str(i) for i in range(10)])


def _fashion_mnist(data_dir) -> ImageArrays:
    if data_dir is not None:
        return _with_channels(read_fashion_mnist(data_dir), FASHION_CLASSES)
    from keras.datasets import fashion_mnist

    try:
        train, test = fashion_mnist.load_data()
    except Exception as error:  # a download fails in many ways, all with the same remedy
        raise ValueError(
            f"Fashion-MNIST could not be downloaded ({type(error).__name__}). Put the four official "
            f"files ({', '.join(FILES.values())}) in a folder and pass it as data_dir (--data_dir). "
            "Debian's package dataset-fashion-mnist has them; `dpkg -L` tells its folder."
        ) from error
    arrays = dict(zip(FILES, (*train, *test), strict=True))
    return _with_channels(arrays, FASHION_CLASSES)
