"""`benchmark.py --input`: rate in images/s of reading JPEG files and augmenting them for pretraining.

The files are crops of two photographs of scikit-learn, at the usual size of ImageNet (500x375) and resized to
a shorter side of 256. Two loaders read them in turn: `AugmentedBatches`, and Pillow with the operations of
torchvision's transforms, on as many threads.
"""

import io
import itertools
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from time_left import counter, say_result

COUNT = 256  # number of files, of 20 to 110 kB
SIZE, ORIGINAL, SHORTER_SIDE = 224, (375, 500), 256
BATCH = 64


def write_files(folder: Path, resized: bool) -> list[str]:
    """Write JPEG files of 500x375 pixels, or 341x256 if `resized`, quality 92; return their paths."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    draw = np.random.default_rng(0).uniform
    folder.mkdir()
    for i in range(COUNT):
        whole = photographs[i % len(photographs)]
        widest = min(whole.width, whole.height * ORIGINAL[1] // ORIGINAL[0])
        width = int(draw(0.5, 1.0) * widest)
        height = width * ORIGINAL[0] // ORIGINAL[1]
        left, top = draw(0, whole.width - width), draw(0, whole.height - height)
        part = whole.crop((int(left), int(top), int(left) + width, int(top) + height))
        part = part.resize(ORIGINAL[::-1], Image.Resampling.BICUBIC)
        if resized:
            scale = SHORTER_SIDE / ORIGINAL[0]
            part = part.resize((round(ORIGINAL[1] * scale), SHORTER_SIDE), Image.Resampling.BICUBIC)
        part.save(folder / f"{i:04}.jpg", quality=92)
    return sorted(str(path) for path in folder.iterdir())


class Ours:
    """Loader with the library's batches, without prefetching, which would run in the other loader's turn."""

    def __init__(self, files, threads):
        from nepa_keras import data

        source = data.FileSource(files)
        self.batches = data.AugmentedBatches(source, BATCH, SIZE, threads=threads)
        self.positions = itertools.cycle(range(len(self.batches)))

    def run(self, count):
        for position in itertools.islice(self.positions, count):
            self.batches[position]


class Pillow:
    """Loader with torchvision's operations by Pillow and NumPy: crop, resize, flip, normalise, stack."""

    def __init__(self, files, threads):
        from nepa_keras.data import RandomResizedCrop

        boxes, flips = RandomResizedCrop().boxes(0, 0, np.arange(10_000), *ORIGINAL)
        self.items = zip(itertools.cycle(files), itertools.cycle(zip(boxes, flips, strict=True)))
        self.pool = ThreadPoolExecutor(threads)

    @staticmethod
    def load(item):
        from PIL import Image

        path, (box, flip) = item
        with open(path, "rb") as file:
            image = Image.open(io.BytesIO(file.read())).convert("RGB")
        top, left, height, width = box
        image = image.crop((left, top, left + width, top + height))
        image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return (np.asarray(image).transpose(2, 0, 1).astype("float32") / 255.0 - 0.5) / 0.5

    def run(self, count):
        for _ in range(count):
            np.stack(list(self.pool.map(self.load, itertools.islice(self.items, BATCH))))


def resident_bytes() -> int:
    """Resident memory of this process in bytes; 0 if the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def measure_input(threads: int, batches: int, repeats: int) -> None:
    """Print the table row by row: images/s of each loader and their ratio, on one thread and on `threads`.

    Args:
        threads: number of threads in the second half of the table.
        batches: number of batches of `BATCH` images in a turn.
        repeats: number of measured turns, after one that warms up.
    """
    print(
        "files               threads  nepa_keras img/s  Pillow img/s  ratio (smallest to largest)"
    )
    turn_done = counter(4 * len({1, threads}) * (repeats + 1), "turn", sys.stderr)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    with tempfile.TemporaryDirectory() as folder:
        originals = write_files(Path(folder, "originals"), resized=False)
        resized = write_files(Path(folder, "resized"), resized=True)
        for count in sorted({1, threads}):
            if cores:
                os.sched_setaffinity(0, cores[:count])
            pillow = Pillow(originals, count)
            for name, files in (("500x375", originals), ("resized to 256", resized)):
                ours = Ours(files, count)
                seconds = {ours: [], pillow: []}
                for side in [ours, pillow] * (repeats + 1):
                    started = time.perf_counter()
                    side.run(batches)
                    seconds[side].append(time.perf_counter() - started)
                    turn_done()
                mine, theirs = seconds[ours][1:], seconds[pillow][1:]
                ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
                speeds = [batches * BATCH / statistics.median(s) for s in (mine, theirs)]
                say_result(
                    f"{name:20}{count:7}{speeds[0]:18.0f}{speeds[1]:14.0f}  "
                    f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                )
    print(
        "Pillow always reads the 500x375 files. Memory of this process: "
        f"{resident_bytes() / 2**20:.0f} MiB."
    )
