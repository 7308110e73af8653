"""A folder of what was read over the network, of bounded size, that processes share.

FOLDER/nepa_keras_network/lock       held while something is written or removed
                          size       bytes of all entries
                          KEY/NAME   an entry: its content and the CRC-32 of it

An entry is written beside its place and renamed, and read only if its checksum is right, so one that a kill
or a crash of the machine cut off is read anew. Readers take no lock: an entry may go while they look for it.
"""

import contextlib
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

_NAME = "nepa_keras_network"
INDEX = "index-"  # names of entries that leave last: a start without them passes over whole files
_CHECKSUM = 4  # bytes
_PAGE = 4096  # bytes that a disk gives at once
_LEFT = 0.9  # part of the bound that is kept when entries leave, so that they do so seldom


class DiskCache:
    """Entries by key and name; those used longest ago leave when there is no room, the indices last.

    Args:
        folder: to make `nepa_keras_network/` in; nothing else there is touched.
        most: bytes on the disk that all entries may take together, by all processes.

    Raises:
        OSError: the folder cannot be made or written to.
    """

    def __init__(self, folder: str | Path, most: int):
        self.folder = Path(folder).expanduser() / _NAME
        self.most = most
        with self._locked():
            pass
        self._full = False

    def get(self, key: str, name: str) -> bytes | None:
        """The content of an entry, which now is the one used last; None if it is not there or not whole."""
        path = self.folder / key / name
        try:
            held = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        content = held[:-_CHECKSUM]
        return content if held[-_CHECKSUM:] == _checksum(content) else None

    def put(self, key: str, entries: Mapping[str, bytes]) -> None:
        """Keep entries as far as there is room. A disk that is full is no error: they are read again then."""
        new = sum(_on_disk(len(content)) for content in entries.values())
        if new > self.most:
            return
        try:
            with self._locked():
                size = self._size()
                if size is None or size + new > self.most:
                    size = self._make_room(new)
                (self.folder / key).mkdir(exist_ok=True)
                for name, content in entries.items():
                    path = self.folder / key / name
                    unfinished = path.with_name(f"unfinished-{name}")
                    unfinished.write_bytes(content + _checksum(content))
                    os.replace(unfinished, path)
                (self.folder / "size").write_text(str(size + new))
        except OSError as error:
            if not self._full:
                self._full = True
                warnings.warn(
                    f"Nothing more is kept in {self.folder} ({error.strerror}), so it is read over the "
                    "network each time: make room there, or name another folder by --cache_dir.",
                    stacklevel=2,
                )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among threads and processes; the lock goes with a process that ends."""
        import fcntl

        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _size(self) -> int | None:
        """Bytes of all entries, as far as they were counted; entries written twice count twice."""
        try:
            return int((self.folder / "size").read_text())
        except (OSError, ValueError):
            return None

    def _make_room(self, new: int) -> int:
        """Remove the entries used longest ago until `new` bytes have room; returns the bytes that stay."""
        entries = []
        for path in self.folder.glob("*/*"):
            status = path.stat()
            if path.name.startswith(
                "unfinished-"
            ):  # of a process that was killed, as we hold the lock
                path.unlink()
            else:
                age = (path.name.startswith(INDEX), status.st_mtime_ns)
                entries.append((age, _on_disk(status.st_size - _CHECKSUM), path))
        size = sum(bytes_ for _, bytes_, _ in entries)
        wanted = self.most - new
        if size > wanted:
            wanted = min(wanted, int(_LEFT * self.most))
        for _, bytes_, path in sorted(entries):
            if size <= wanted:
                break
            path.unlink(missing_ok=True)
            size -= bytes_
            with contextlib.suppress(OSError):  # others are in it
                path.parent.rmdir()
        return size


def _checksum(content: bytes) -> bytes:
    return struct.pack("<I", zlib.crc32(content))


def _on_disk(length: int) -> int:
    return -(-(length + _CHECKSUM) // _PAGE) * _PAGE
