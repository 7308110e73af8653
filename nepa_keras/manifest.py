"""A manifest with size and checksum of each file in a folder, to detect damage."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

MANIFEST = "manifest.json"


def write_manifest(folder: Path, names: Iterable[str]) -> None:
    """Write size and SHA-256 of files in a folder."""
    manifest = {name: _fingerprint(folder / name) for name in names}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def read_manifest(folder: Path, required: Iterable[str]) -> dict[str, dict]:
    """Return size and SHA-256 of each file by its name.

    Args:
        folder: folder with the manifest.
        required: names that the manifest must have.

    Raises:
        OSError, ValueError: the manifest is missing, damaged, or lacks a required name.
    """
    manifest = json.loads((folder / MANIFEST).read_text())
    if not isinstance(manifest, dict) or not set(required) <= set(manifest):
        raise ValueError(f"{MANIFEST} does not name its files")
    if wrong := [name for name in manifest if Path(name).name != name or name in ("", "..")]:
        raise ValueError(f"{MANIFEST} names {wrong[0]!r}, which is outside its folder")
    return manifest


def check_content(name: str, content: bytes, expected: dict) -> None:
    """Compare the content of a file with its entry in the manifest.

    Raises:
        ValueError: they differ.
    """
    digest = hashlib.sha256(content).hexdigest()
    _compare(name, {"size": len(content), "sha256": digest}, expected)


def check_files(folder: Path, required: Iterable[str]) -> None:
    """Compare the files of a folder with its manifest, without loading them into memory.

    Args:
        folder: folder with the manifest.
        required: names that the manifest must have.

    Raises:
        OSError, ValueError: a file is missing or changed, or the manifest is missing or damaged.
    """
    for name, expected in read_manifest(folder, required).items():
        _compare(name, _fingerprint(folder / name), expected)


def _compare(name: str, found: dict, expected: dict) -> None:
    if found != expected:
        raise ValueError(f"{name} is not as it was written")


def _fingerprint(path: Path) -> dict:
    with open(path, "rb") as file:
        return {
            "size": os.fstat(file.fileno()).st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }
