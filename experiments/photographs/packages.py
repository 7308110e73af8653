"""Packages of registries: downloaded by the registry's own client, read without being installed."""

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

_AR, _AR_ENTRY = b"!<arch>\n", 60  # Debian's packages are archives of ar


class UnavailableError(ValueError):
    """A package that this machine does not get; the message says why."""


def fetch(source: Source, folder: Path) -> Path:
    """The file of a package, downloaded into the folder where it is not there yet.

    Raises:
        UnavailableError: the registry's client is not here, or does not give the package.
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
        raise UnavailableError(f"{name} of {source.registry} needs {client}, which is not here")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if found := sorted(folder.glob(pattern)):
        return found[-1]
    said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
    raise UnavailableError(f"{client} does not get {name} of {source.registry}: {said}")


def version(path: Path) -> str:
    """The version in the name of a package's file."""
    parts = path.name.split("_" if path.suffix == ".deb" else "-")
    return unquote(parts[1]) if len(parts) > 1 else "?"


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Path and content of the regular files in a package, and of those in Qt's resource files in it.

    Args:
        path: of a wheel or of a Debian package.

    Raises:
        UnavailableError: the file is damaged, or of another kind.
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
        raise UnavailableError(f"{path} is no package that can be read: {error}") from None


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
    """The member data.tar.* of a Debian package (deb(5), ar(5)).

    Raises:
        ValueError: it has none.
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
    """Bytes of a file.

    Raises:
        ValueError: it ends before.
    """
    if start + length > len(content):
        raise ValueError("it ends too early")
    return content[start : start + length]


def _of_resources(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Path and content of the files in a Qt resource file.

    It is a header, a tree of folders and files, their names (UTF-16) and their contents, all numbers
    big-endian: qtbase/src/tools/rcc.

    Raises:
        ValueError: it is of another format, or compressed by other means than zlib.
    """
    if not content.startswith(b"qres"):
        raise ValueError("a resource file does not begin with qres")
    form, tree, contents, names = struct.unpack_from(">4I", content, 4)
    node = 14 if form < 2 else 22  # bytes; later forms have a time
    folder, deflated, other = 2, 1, 4

    def walk(number: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        at = tree + number * node
        name_at, kind = struct.unpack_from(">IH", content, at)
        length = struct.unpack_from(">H", content, names + name_at)[0] if number else 0
        start = names + name_at + 6  # behind the length and a hash
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
        # zlib's data is behind the size of the whole, as qCompress writes it.
        yield path, zlib.decompress(data[4:]) if kind & deflated else data

    yield from walk(0, "")
