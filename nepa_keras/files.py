"""Safe file operations: atomic writing, opening regular files only, names printable on one line."""

import errno
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading bytes; refuse pipes and devices, which could block or never end.

    Raises:
        OSError: the file is missing, cannot be read, or is no regular file.
    """
    file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115  the caller closes it
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))


def _open_without_waiting(path: str, flags: int) -> int:
    # Systems without O_NONBLOCK have no named pipes in folders.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


def printable(name: str) -> str:
    r"""Escape the unprintable characters of a file name, for a message or one line of a log.

    Line ends become \n; bytes that are not UTF-8 become \xNN.
    """
    return "".join(c if c.isprintable() else _escaped(c) for c in name)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # Python's stand-in for a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def is_whole_archive(path: str | Path) -> bool:
    """Tell whether a file is an intact zip archive, as `.keras` files are: all checksums match."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
        struct.error,
        zlib.error,
        zipfile.BadZipFile,
    ):
        return False


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path to write a file or folder to, which replaces `path` when the block ends.

    Until then, and if the block raises, `path` stays as it is. A killed process can leave `unfinished-NAME`,
    which the next write removes. A folder is replaced by two renames: a kill between them leaves the old one
    as `old-NAME`. The content is flushed to disk before the rename, so that after a crash of the machine
    either the old or the new version is there.

    Args:
        path: file or folder to write, in an existing folder; `~` is the home folder.

    Raises:
        IsADirectoryError: a file was written, but `path` is a folder, which is left unchanged.
    """
    path = Path(path).expanduser()
    unfinished, old = (path.with_name(f"{kind}-{path.name}") for kind in ("unfinished", "old"))
    _remove(unfinished)
    try:
        yield unfinished
        _all_to_disk(unfinished)
        if path.is_dir():
            if not unfinished.is_dir():
                check_no_folder(path)
            _replace_folder(unfinished, path, old)
        else:
            os.replace(unfinished, path)
    except BaseException:
        _remove(unfinished)
        raise
    to_disk(path.parent)
    _remove(old)


def check_no_folder(path: str | Path) -> None:
    """Refuse a folder where a file is to be written.

    Raises:
        IsADirectoryError: it is one.
    """
    if (path := Path(path).expanduser()).is_dir():
        raise IsADirectoryError(
            errno.EISDIR, "it is a folder, which is left as it is; name a file", str(path)
        )


def _replace_folder(new: Path, path: Path, old: Path) -> None:
    _remove(old)
    os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old, path)
        raise


def to_disk(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _all_to_disk(path: Path) -> None:
    for inner in path.rglob("*") if path.is_dir() else ():
        to_disk(inner)
    to_disk(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
