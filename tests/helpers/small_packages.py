"""Small packages as registries give them: Debian's, wheels, and Qt's resource files."""

import io
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path


def wheel(path: Path, files: dict[str, bytes]) -> None:
    """Write a wheel: a zip archive."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def debian(path: Path, files: dict[str, bytes]) -> None:
    """Write a Debian package: an ar archive with data.tar.xz, of which entries begin at even positions."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        folder = tarfile.TarInfo("./usr")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data.getvalue()}
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in members.items():
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))


def resources(folders: tuple[str, ...], files: dict[str, bytes]) -> bytes:
    """Content of a Qt resource file of form 3: files in nested folders, every second one deflated."""
    names = contents = nodes = b""

    def name_at(text: str) -> int:
        nonlocal names
        at = len(names)
        names += struct.pack(">HI", len(text), 0) + text.encode("utf-16-be")
        return at

    inside = [1] * len(folders) + [len(files)]
    for number, folder in enumerate(("", *folders)):
        name = name_at(folder) if number else 0
        nodes += struct.pack(">IHIIQ", name, 2, inside[number], number + 1, 0)
    for number, (name, content) in enumerate(files.items()):
        deflated = number % 2
        stored = struct.pack(">I", len(content)) + zlib.compress(content) if deflated else content
        nodes += struct.pack(">IHHHIQ", name_at(name), deflated, 0, 0, len(contents), 0)
        contents += struct.pack(">I", len(stored)) + stored
    header = 24
    places = (header, header + len(nodes), header + len(nodes) + len(contents))
    return b"qres" + struct.pack(">5I", 3, *places, 0) + nodes + contents + names
