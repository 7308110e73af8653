"""Make the image file that ships with the library from the official Fashion-MNIST files.

    python benchmarks/make_embedded_data.py --data_dir=/usr/share/datasets/fashion-mnist

The file holds the first 1,000 training and 200 test images of each class, in the order of the official files.
Its bytes are the same on every run. The script prints the checksum that `nepa_keras/data/arrays.py` verifies.
"""

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
from absl import app, flags

from nepa_keras.data.arrays import EMBEDDED_FILE
from nepa_keras.data.idx import read_fashion_mnist

flags.DEFINE_string(
    "data_dir",
    "/usr/share/datasets/fashion-mnist",  # path in Debian's package dataset-fashion-mnist
    "Folder with the four official .gz files of Fashion-MNIST.",
)
flags.DEFINE_string("output", str(EMBEDDED_FILE), "Image file (.npz) to write.")
FLAGS = flags.FLAGS


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Indices of the first `count` examples of every class, in file order."""
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(10)]))


def main(_):
    arrays = read_fashion_mnist(FLAGS.data_dir)
    for split, count in (("train", 1000), ("test", 200)):
        chosen = first_of_each_class(arrays[f"{split}_labels"], count)
        for kind in ("images", "labels"):
            arrays[f"{split}_{kind}"] = arrays[f"{split}_{kind}"][chosen]
    path = Path(FLAGS.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=False)
            entry = zipfile.ZipInfo(
                f"{name}.npy"
            )  # its date is fixed, so that the bytes do not vary
            archive.writestr(entry, buffer.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)
    content = path.read_bytes()
    print(f"{path}: {len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    app.run(main)
