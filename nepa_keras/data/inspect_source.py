"""Inspection of a source of images: sizes, formats, value ranges, classes, and unreadable images."""

import time
from collections import Counter
from dataclasses import dataclass

import numpy as np

from nepa_keras.data.decode import ImageError, decode_image
from nepa_keras.data.formats import media_format
from nepa_keras.data.labels import in_order
from nepa_keras.data.network import in_parallel
from nepa_keras.data.pixels import ValueRange, checked_range
from nepa_keras.data.reading import threads_for
from nepa_keras.data.sources.base import ImageSource
from nepa_keras.data.stored_ranges import StoredRange, range_note, stored_range
from nepa_keras.files import printable

_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"RIFF": "WebP",
    b"\x93NUMPY": ".npy",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    **dict.fromkeys((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"), "PPM"),
}
_ROWS = 20  # classes and bad images shown in the text


@dataclass(frozen=True)
class SourceReport:
    """Statistics of the inspected images.

    Attributes:
        total: number of images of the source.
        looked_at: indices of the inspected images.
        sizes: (readable images, 2) heights and widths in pixels.
        formats: number of images of each format.
        classes: number of images of each class, by name or number; empty without labels.
        bad: "name: reason" of each image that cannot be read; unprintable characters are escaped.
        seconds: time to read and decode the images with `threads` threads.
        ranges: range of values of each readable image; None for an image of 8 bits.
        value_range: value range with which the images were decoded.
        unlabelled: number of images without a label in a source that has labels.
        labels_per_image: mean number of labels per image of a multi-label source, else None.
        notes: notes of the source: what was left out, and what looks wrong.

    Example:
        >>> report = data.inspect_source(data.open_source("folder:pictures"), channels=1)
        >>> report.total, report.formats["PNG"], len(report.bad)
        (8, 8, 0)
    """

    total: int
    looked_at: np.ndarray
    sizes: np.ndarray
    formats: Counter
    classes: Counter
    bad: list[str]
    seconds: float
    threads: int
    ranges: list[StoredRange | None]
    value_range: ValueRange | None
    unlabelled: int = 0
    notes: tuple[str, ...] = ()
    labels_per_image: float | None = None

    def __str__(self) -> str:
        readable = len(self.sizes)
        lines = [f"{self.total:,} images, {len(self.looked_at):,} looked at, {len(self.bad):,} bad"]
        if readable:
            low, middle, high = np.percentile(self.sizes, [0, 50, 100], axis=0).astype(int)
            sizes = " ".join(f"{h}x{w}" for h, w in (low, middle, high))
            lines.append(f"height x width, smallest, median and largest of each: {sizes}")
            lines.append(
                ", ".join(f"{count:,} {name}" for name, count in self.formats.most_common())
            )
        if deep := [each for each in self.ranges if each is not None]:
            low, high = min(each.low for each in deep), max(each.high for each in deep)
            lines.append(
                f"{len(deep):,} of more than 8 bits, of values from {low:.6g} to {high:.6g}"
            )
        if note := range_note(self.ranges, self.value_range):
            lines.append(note)
        if self.classes:
            counts = self.classes.values()
            lines.append(f"{len(counts):,} classes of {min(counts):,} to {max(counts):,} images")
            shown = in_order(self.classes)[:_ROWS]
            lines += [f"  {printable(name)}: {self.classes[name]:,}" for name in shown]
            if len(self.classes) > _ROWS:
                lines.append(f"  and {len(self.classes) - _ROWS} more")
        if self.labels_per_image is not None:
            lines.append(f"{self.labels_per_image:.2f} labels per image on average")
        if self.unlabelled:
            lines.append(f"{self.unlabelled:,} images without a label")
        lines += self.notes
        speed = len(self.looked_at) / self.seconds
        lines.append(f"read and decoded at {speed:.0f} images/s by {self.threads} threads")
        if self.bad:
            lines.append("bad:")
            lines += [f"  {line}" for line in self.bad[:_ROWS]]
            if len(self.bad) > _ROWS:
                lines.append(f"  and {len(self.bad) - _ROWS} more")
        return "\n".join(lines)


def inspect_source(
    source: ImageSource,
    channels: int = 3,
    limit: int | None = None,
    threads: int | None = None,
    value_range: ValueRange | None = None,
) -> SourceReport:
    """Decode all images of a source, or `limit` of them spread evenly, and count what is found.

    Args:
        source: result of `open_source`.
        channels: number of channels, as for training.
        limit: number of images to inspect; None for all.
        threads: threads that read and decode; default one per core.
        value_range: value range, as for training.
    """
    value_range = checked_range(value_range)
    total = len(source)
    looked_at = np.arange(total)
    if limit is not None and limit < total:
        looked_at = np.linspace(0, total - 1, limit).astype(int)

    def look(index):
        try:
            content = source.read(index)
            height, width, _ = decode_image(content, channels, value_range).shape
            return _format(content), (height, width), stored_range(content)
        except ImageError as error:
            return printable(f"{source.name(index)}: {error}"), None, None

    threads = threads or threads_for(source)
    started = time.perf_counter()
    results = in_parallel(look, looked_at.tolist(), threads)
    classes: Counter[str] = Counter()
    unlabelled, labels_per_image = 0, None
    names = source.class_names
    if source.labels is not None and source.multi_label:
        counts = source.labels.sum(axis=0, dtype=int).tolist()
        labels_per_image = sum(counts) / total
        classes = Counter({names[k] if names else str(k): n for k, n in enumerate(counts) if n})
    elif source.labels is not None:
        numbers = Counter(source.labels.tolist())
        classes = Counter({names[n] if names else str(n): c for n, c in numbers.items() if n >= 0})
        unlabelled = len(source.labels) - classes.total()
    return SourceReport(
        total,
        looked_at,
        np.array([size for _, size, _ in results if size]).reshape(-1, 2),
        Counter(kind for kind, size, _ in results if size),
        classes,
        [reason for reason, size, _ in results if not size],
        time.perf_counter() - started,
        threads,
        [held for _, size, held in results if size],
        value_range,
        unlabelled,
        source.notes,
        labels_per_image,
    )


def _format(content: bytes | np.ndarray) -> str:
    if isinstance(content, np.ndarray):
        return "array"
    known = (name for magic, name in _MAGIC.items() if content.startswith(magic))
    return next(known, media_format(content) or "other")
