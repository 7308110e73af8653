"""Pieces of large files by offset, so that any can be read without those before it."""

from bisect import bisect_right
from itertools import accumulate

from nepa_keras.data.decode import ImageError, read_file


class FileRanges:
    """Pieces of files, numbered through, read by any thread.

    Args:
        paths: the files.
        ranges: for each file the (offset, length) of its pieces.
    """

    def __init__(self, paths: list[str], ranges: list[list[tuple[int, int]]]):
        self.paths = paths
        self.ranges = ranges
        self.ends = list(accumulate(len(r) for r in ranges))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def place(self, index: int) -> tuple[int, int]:
        """(file, piece in it)."""
        file = bisect_right(self.ends, index)
        return file, index - (self.ends[file - 1] if file else 0)

    def length(self, index: int) -> int:
        """Of the encoded image of an index, in bytes."""
        file, piece = self.place(index)
        return self.ranges[file][piece][1]

    def read(self, index: int) -> bytes:
        """The encoded image of an index, read from its file."""
        file, piece = self.place(index)
        return read_range(self.paths[file], *self.ranges[file][piece])


def read_range(path: str, offset: int, length: int) -> bytes:
    """Part of a file, opened for this read alone: a data set can have more files than may be open.

    Raises:
        ImageError: it cannot be read, or ends before.
    """
    data = read_file(path, offset, length)
    if len(data) != length:
        raise ImageError("the file ends before it")
    return data
