"""Files of which sources consist, on disk or over the network."""

import glob
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from nepa_keras.data.network import NetworkFile, RefusedError, in_parallel, network_files, scheme

_AT_ONCE = 16  # files over the network that are requested or scanned in parallel
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def files_of(place: str, *patterns: str) -> list[str]:
    """Files that FILES names, sorted; for a folder, those of the first pattern that any file matches.

    Raises:
        ValueError: there are none, a part of a range is missing, or a server does not list files.
    """
    path = place if scheme(place) else str(Path(place).expanduser())
    if found := _RANGE.search(path):
        first, last = found.groups()
        numbers = (f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1))
        files = [path[: found.start()] + n + path[found.end() :] for n in numbers]
        missing = _missing(files)
        if missing or not files:
            raise ValueError(f"Of {place}, {missing[0] if missing else 'every file'} is missing.")
        return files
    if scheme(path):
        return _network_files(path, *patterns)
    if Path(path).is_dir():
        for pattern in patterns:
            files = sorted(str(f) for f in Path(path).glob(pattern) if f.is_file())
            if files:
                return files
        raise ValueError(f"The folder {place} holds no file like {' or '.join(patterns)}.")
    files = sorted(f for f in glob.glob(path) if Path(f).is_file())
    if not files:
        raise ValueError(f"There is no file {place}.")
    return files


def names_files(place: str) -> bool:
    """True if FILES names the files themselves (a range, a pattern or one file), not a folder of them."""
    if _RANGE.search(place) or "*" in place or place.endswith(".parquet"):
        return True
    return not scheme(place) and Path(place).expanduser().is_file()


def _network_files(address: str, *patterns: str) -> list[str]:
    by_http = scheme(address) in ("http", "https")
    network_files().servers.begin_again()
    if "*" not in address and not address.endswith("/"):
        try:
            network_files().state(address, anew=True)
            return [address]
        except RefusedError:
            if by_http:
                raise
    files = network_files().servers.listing(address, patterns)
    if not files:
        folder = (
            "" if "*" in address else f", and no folder with files like {' or '.join(patterns)}"
        )
        raise ValueError(f"There is no file {address}{folder}.")
    _missing(files)
    return files


def _missing(files: list[str]) -> list[str]:
    """Files that do not exist; the state of files over the network is requested again."""
    if not files or not scheme(files[0]):
        return [file for file in files if not Path(file).is_file()]
    network = network_files()
    network.servers.begin_again()
    network.state(files[0], anew=True)  # one first: most faults concern all files

    def is_missing(file: str) -> bool:
        try:
            return network.state(file, anew=True).size < 0
        except RefusedError:
            return True

    gone = in_parallel(is_missing, files[1:], _AT_ONCE)
    return [file for file, missing in zip(files[1:], gone, strict=True) if missing]


def open_to_read(path: str) -> BinaryIO | NetworkFile:
    """Open a file for reading and seeking.

    Raises:
        OSError: a file on disk cannot be opened.
        NetworkError: a file over the network cannot be read.
    """
    file = path_or_file(path)
    return open(file, "rb") if isinstance(file, str) else file


def file_size(path: str) -> int:
    """Size of a file in bytes.

    Raises:
        OSError: a file on disk cannot be accessed.
        NetworkError: a file over the network cannot be read.
    """
    return network_files().state(path).size if scheme(path) else os.path.getsize(path)


def tag_of(path: str) -> str | None:
    """Text that changes with the content of a file over the network; None for a file on disk."""
    return network_files().state(path).tag if scheme(path) else None


def beside(path: str, name: str) -> str | None:
    """Path of a file in the folder of another; None if it does not exist.

    Raises:
        NetworkError: the server does not answer.
    """
    if not scheme(path):
        file = Path(path).parent / name
        return str(file) if file.exists() else None
    address = f"{path.rpartition('/')[0]}/{name}"
    try:
        network_files().state(address, anew=True)
        return address
    except RefusedError:
        return None


def path_or_file(path: str) -> str | NetworkFile:
    """Path of a file on disk, or a file object over the network, for libraries that open paths themselves."""
    return NetworkFile(network_files(), path) if scheme(path) else path


def of_each_file(function: Callable[[str], Any], paths: list[str], name: str | None = None) -> list:
    """Results of a function for each file; over the network several at once, kept in the cache.

    Args:
        function: takes a path.
        paths: paths of the files.
        name: key under which results, which JSON must be able to hold, are cached; it must change whenever
            results would. None caches nothing.
    """
    if not paths or not scheme(paths[0]):
        return [function(path) for path in paths]

    def kept(path: str) -> Any:
        if name is None:
            return function(path)
        return network_files().remembered(path, name, lambda: function(path))

    return in_parallel(kept, paths, _AT_ONCE)
