"""Parts of large files by offset, each readable without those before it."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from nepa_keras.data.decode import ImageError, read_file
from nepa_keras.data.network import network_files, scheme
from nepa_keras.data.sources.places import tag_of


class FileRanges:
    """Parts of files, numbered consecutively, readable from any thread.

    Args:
        paths: the files.
        ranges: for each file the (offset, length) of its parts.
    """

    def __init__(self, paths: list[str], ranges: Sequence[Sequence[Sequence[int]]]):
        self.paths = paths
        self.ranges = ranges
        self.ends = list(accumulate(len(r) for r in ranges))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def place(self, index: int) -> tuple[int, int]:
        """Number of the file, and number of the part in it."""
        file = bisect_right(self.ends, index)
        return file, index - (self.ends[file - 1] if file else 0)

    def mark(self, index: int) -> object:
        """See `ImageSource.mark`: length of a part in bytes, and over the network the tag of its file."""
        file, piece = self.place(index)
        length, tag = self.ranges[file][piece][1], tag_of(self.paths[file])
        return length if tag is None else (length, tag)

    def read(self, index: int) -> bytes:
        """Encoded image of an index, read from its file."""
        file, piece = self.place(index)
        return read_range(self.paths[file], *self.ranges[file][piece])


def read_range(path: str, offset: int, length: int) -> bytes:
    """Part of a file, which is opened for this read alone: a data set may have more files than can be open.

    Raises:
        ImageError: the file cannot be read, or ends before.
        NetworkError: its server does not answer.
    """
    read = network_files().read if scheme(path) else read_file
    data = read(path, offset, length)
    if len(data) != length:
        raise ImageError("the file ends before it")
    return data
