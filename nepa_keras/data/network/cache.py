"""Disk cache of what was read over the network, of bounded size, shared by processes.

FOLDER/nepa_keras_network/lock       held while something is written or removed
                          size       bytes of all entries
                          KEY/NAME   an entry: its content and the content's CRC-32

An entry is written to a temporary file and renamed, and used only if its checksum is right; one that a kill
or a crash left incomplete is read over the network again. Readers take no lock: an entry may disappear while
they look for it.
"""

import contextlib
import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

_NAME = "nepa_keras_network"
INDEX = "index-"  # prefix of indices, evicted last: without them files must be scanned
_CHECKSUM = 4  # bytes
_PAGE = 4096  # bytes; block size of the disk
_LEFT = 0.9  # fraction of the limit that remains after eviction, so that eviction is rare


class DiskCache:
    """Entries by key and name; the least recently used are evicted first, indices last.

    Args:
        folder: parent of `nepa_keras_network/`; nothing else in it is touched.
        most: limit in bytes of all entries on disk, of all processes together.

    Raises:
        OSError: the folder cannot be created or written to.
    """

    def __init__(self, folder: str | Path, most: int):
        self.folder = Path(folder).expanduser() / _NAME
        self.most = most
        with self._locked():
            pass
        self._full = False

    def get(self, key: str, name: str) -> bytes | None:
        """Content of an entry, marked as used now; None if it is missing or damaged."""
        path = self.folder / key / name
        try:
            held = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        content = held[:-_CHECKSUM]
        return content if held[-_CHECKSUM:] == _checksum(content) else None

    def put(self, key: str, entries: Mapping[str, bytes]) -> None:
        """Store entries if there is room. A full disk raises no error: the entries are read again later."""
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
                    f"Nothing more is stored in {self.folder} ({error.strerror}), so data is read over the "
                    "network each time: make room there, or name another folder by --cache_dir.",
                    stacklevel=2,
                )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock among threads and processes; the system releases it when a process ends."""
        import fcntl

        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _size(self) -> int | None:
        """Bytes of all entries, as last recorded; an entry written twice counts twice."""
        try:
            return int((self.folder / "size").read_text())
        except (OSError, ValueError):
            return None

    def _make_room(self, new: int) -> int:
        """Evict the least recently used entries until `new` bytes fit; returns the bytes that remain."""
        entries = []
        for path in self.folder.glob("*/*"):
            status = path.stat()
            if path.name.startswith(
                "unfinished-"
            ):  # left by a killed process, as this one holds the lock
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
            with contextlib.suppress(OSError):  # the folder holds other entries
                path.parent.rmdir()
        return size


def _checksum(content: bytes) -> bytes:
    return struct.pack("<I", zlib.crc32(content))


def _on_disk(length: int) -> int:
    return -(-(length + _CHECKSUM) // _PAGE) * _PAGE
