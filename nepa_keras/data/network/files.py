"""Files over the network, read in blocks through a cache on disk."""

import hashlib
import io
import json
import os
import threading
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nepa_keras.data.network.cache import INDEX, DiskCache
from nepa_keras.data.network.servers import Servers
from nepa_keras.data.network.stores import FileState, NetworkError, RefusedError
from nepa_keras.files import printable

BLOCK = (1 << 17) - 4  # bytes; with its checksum an entry of the cache fills whole disk pages
_NOT_THERE = b"null"  # cached state of a file that does not exist
_LARGEST_PART = 64  # blocks per request
_NEAR = 8  # blocks; a read that starts at most this far behind the last one counts as sequential
_AT_ONCE = 4  # parallel requests for one long read
DEFAULT_SIZE = 10.0  # GB
LEAST_SIZE = 0.1  # GB; blocks requested by several threads must fit until they are used


class NetworkFiles:
    """Files by address; safe to use from several threads.

    Args:
        cache: cache of their blocks and indices.
    """

    def __init__(self, cache: DiskCache):
        self.cache = cache
        self.servers = Servers()
        self._states: dict[str, FileState] = {}
        self._offline = False  # whether the user was told that the server does not answer
        # Per thread: `part` is address, end and length in blocks of the last request; `block` is key and
        # content of the last block used, as headers and labels are many small reads.
        self._last = threading.local()

    def state(self, address: str, anew: bool = False) -> FileState:
        """Size and tag of a file, requested once, or again with `anew`; the last known if there is no answer.

        Raises:
            NetworkError: see `Servers.state`; for a file that the cache does not know.
        """
        if anew or address not in self._states:
            self._states[address] = self._state(address)
        return self._states[address]

    def _state(self, address: str) -> FileState:
        key, name = hashlib.sha256(address.encode()).hexdigest()[:32], f"{INDEX}state"
        held = self.cache.get(key, name)
        try:
            found = self.servers.state(address)
        except RefusedError:
            if held != _NOT_THERE:
                self.cache.put(key, {name: _NOT_THERE})
            raise
        except NetworkError as error:
            if held is None:
                raise
            if held == _NOT_THERE:
                raise RefusedError(str(error)) from None
            self._say_offline(address)
            return FileState(*json.loads(held))
        if (content := json.dumps(found).encode()) != held:
            self.cache.put(key, {name: content})
        return found

    def _say_offline(self, address: str) -> None:
        if not self._offline:
            self._offline = True
            warnings.warn(
                f"The server of {printable(address)} does not answer, so files are taken to be as they were "
                "at the last start, and are read from the cache alone.",
                stacklevel=5,
            )

    def read(self, address: str, offset: int, length: int) -> bytes:
        """Part of a file, shorter if the file ends before.

        Raises:
            NetworkError: see `Servers.read`.
        """
        state = self.state(address)
        stop = min(offset + length, state.size)
        if stop <= offset:
            return b""
        key, first, end = _key(address, state), offset // BLOCK, -(-stop // BLOCK)
        place, block = getattr(self._last, "block", (None, None))
        blocks = {
            n: block if place == (key, n) else self.cache.get(key, str(n))
            for n in range(first, end)
        }
        missing = [n for n, block in blocks.items() if block is None]
        parts = self._parts(address, missing, -(-state.size // BLOCK))

        def fetch(part: range) -> dict[int, bytes]:
            begin = part.start * BLOCK
            content = self.servers.read(address, begin, min(part.stop * BLOCK, state.size), state)
            found = {n: content[i * BLOCK : (i + 1) * BLOCK] for i, n in enumerate(part)}
            self.cache.put(key, {str(n): block for n, block in found.items()})
            return found

        for found in in_parallel(fetch, parts, _AT_ONCE):
            blocks.update(found)
        self._last.block = (key, end - 1), blocks[end - 1]
        held = b"".join(blocks[n] or b"" for n in range(first, end))
        return held[offset - first * BLOCK : stop - first * BLOCK]

    def _parts(self, address: str, missing: list[int], count: int) -> list[range]:
        """Block ranges to request: adjacent missing blocks together, and read-ahead for sequential reads."""
        parts: list[range] = []
        for n in missing:
            if parts and parts[-1].stop == n and len(parts[-1]) < _LARGEST_PART:
                parts[-1] = range(parts[-1].start, n + 1)
            else:
                parts.append(range(n, n + 1))
        if parts:
            last, end, length = getattr(self._last, "part", ("", 0, 0))
            part = parts[-1]
            if last == address and 0 <= parts[0].start - end <= _NEAR:
                length = min(max(len(part), 2 * length), _LARGEST_PART)
                parts[-1] = part = range(part.start, min(part.start + length, count))
            self._last.part = (address, part.stop, len(part))
        return parts

    def remembered(self, address: str, name: str, make: Callable[[], Any]) -> Any:
        """Result of `make()`, which JSON must be able to hold, for a file; kept in the cache."""
        key, name = _key(address, self.state(address)), INDEX + name
        held = self.cache.get(key, name)
        if held is not None:
            return json.loads(zlib.decompress(held))
        made = json.loads(json.dumps(make()))  # the same as when it comes from the cache
        self.cache.put(key, {name: zlib.compress(json.dumps(made).encode())})
        return made


class NetworkFile(io.RawIOBase):
    """Readable and seekable Python file object of a file over the network.

    Args:
        files: object that reads it.
        address: address of the file.
    """

    def __init__(self, files: NetworkFiles, address: str):
        super().__init__()
        self.files, self.address = files, address
        self.size = files.state(address).size
        self.place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.place = max(0, offset + (0, self.place, self.size)[whence])
        return self.place

    def readinto(self, buffer) -> int:
        content = self.files.read(self.address, self.place, len(buffer))
        buffer[: len(content)] = content
        self.place += len(content)
        return len(content)


def in_parallel(function: Callable, items: list, threads: int) -> list:
    """`function` of each item, in threads if there are several; an error cancels what has not started."""
    if len(items) < 2:
        return [function(item) for item in items]
    pool = ThreadPoolExecutor(threads, "nepa_keras-network")
    try:
        return list(pool.map(function, items))
    finally:
        pool.shutdown(cancel_futures=True)


def _key(address: str, state: FileState) -> str:
    return hashlib.sha256(repr((address, *state)).encode()).hexdigest()[:32]


_files: NetworkFiles | None = None
_lock = threading.Lock()


def use_cache(folder: str | os.PathLike | None = None, size: float | None = None) -> None:
    """Set the folder and size of the cache of what is read over the network, for this process.

    Several processes may share a folder; its content stays for later processes.

    Args:
        folder: default NEPA_KERAS_CACHE_DIR of the environment, or nepa_keras/ in XDG_CACHE_HOME or ~/.cache.
        size: limit in GB (10^9 bytes); default NEPA_KERAS_CACHE_SIZE, or 10. The least recently used data is
            removed first.

    Raises:
        ValueError: the folder cannot be written to, or the size is below 0.1.
    """
    global _files
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = os.fspath(
        folder or os.environ.get("NEPA_KERAS_CACHE_DIR") or os.path.join(home, "nepa_keras")
    )
    given = os.environ.get("NEPA_KERAS_CACHE_SIZE") or DEFAULT_SIZE
    try:
        most = float(given if size is None else size)
    except ValueError:
        raise ValueError(f"NEPA_KERAS_CACHE_SIZE={given} is no number of GB.") from None
    if not LEAST_SIZE <= most < float("inf"):
        raise ValueError(
            f"The network cache is limited to {most:g} GB; it needs at least {LEAST_SIZE:g} GB to work."
        )
    try:
        cache = DiskCache(folder, int(most * 1e9))
    except OSError as error:
        raise ValueError(
            f"Nothing can be stored in {printable(folder)} ({error.strerror}); name a folder by --cache_dir "
            "or NEPA_KERAS_CACHE_DIR."
        ) from None
    with _lock:
        _files = NetworkFiles(cache)


def network_files() -> NetworkFiles:
    """Files of this process, with the cache set by `use_cache`."""
    if _files is None:
        use_cache()
    assert _files is not None
    return _files
