"""Files: written whole or not at all, opened without waiting for a pipe, and named on one line."""

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
    """Open a file for reading bytes, which a pipe or a device would keep waiting, or feed without end.

    Raises:
        OSError: it is missing, cannot be read, or is no regular file.
    """
    file = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115  the caller closes it
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))


def _open_without_waiting(path: str, flags: int) -> int:
    # On systems without O_NONBLOCK no pipe has a name in a folder.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


def printable(name: str) -> str:
    r"""A file's name for a message or one line of a log: what is no printable character is escaped.

    Line ends become \n, bytes that are not UTF-8 \xNN.
    """
    return "".join(c if c.isprintable() else _escaped(c) for c in name)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # Python's stand-in for a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def is_whole_archive(path: str | Path) -> bool:
    """Whether a file is a zip archive, as `.keras` files are, whose members have their checksums."""
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
    """Yield a path to write a file or folder to, which then takes the place of `path`.

    Until the block ends, what is at `path` stays as it is; an error leaves it so, and nothing beside it. A
    kill can leave `unfinished-NAME`, which the next write removes. A folder is replaced in two renames: a
    kill between them leaves the old one as `old-NAME`. What was written is on the disk before it gets its
    name, so that a crash of the machine leaves the one or the other, too.

    Args:
        path: in an existing folder; `~` is the home folder.

    Raises:
        IsADirectoryError: a file was written, and a folder is there, which is left as it is.
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
    """Bring a file, or the names in a folder, to the disk (fsync)."""
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
