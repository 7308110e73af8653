"""Checkpoints of a run, written so that a crash at any moment loses nothing but the steps since the last.

    RUN_DIR/checkpoints/
        step-00000400/             complete, or it would not have this name
            state.safetensors      weights, moving statistics, seeds, optimizer with its averages
            record.json            step and whatever the run wants to know again
            manifest.json          size and SHA-256 of the two
        step-00000800/
        unfinished-step-00001200/  left by a crash; removed by the next save
        damaged-step-00001000/     found damaged when the run resumed; renamed by the next save

A checkpoint is written under another name, brought to the disk (fsync), renamed, and the rename brought to
the disk; only then older ones are removed. What is read is compared with the manifest first: a damaged one is
named, and the one before it is used.
"""

import hashlib
import json
import math
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from nepa_keras.files import to_disk

_STATE, _RECORD, _MANIFEST = "state.safetensors", "record.json", "manifest.json"
_NAME = re.compile(r"step-(\d{8,})")
_UNFINISHED, _DAMAGED = "unfinished-", "damaged-"


class Saved(NamedTuple):
    """A checkpoint that was read whole.

    Attributes:
        step: of the run.
        state: arrays by name, for `model_state.restore_state`.
        record: what the run had kept.
    """

    step: int
    state: dict[str, np.ndarray]
    record: dict


class Checkpoints:
    """The checkpoints in a folder.

    Args:
        folder: made by the first save.
        keep_last: so many of the newest stay.
        keep_every: those whose step it divides stay, too.
        at_boundary: called with a word between any two operations of a save, for tests that end the process
            there.

    Attributes:
        damaged: a sentence for each checkpoint that `newest` found damaged.
    """

    def __init__(
        self,
        folder: str | Path,
        keep_last: int = 2,
        keep_every: int | None = None,
        at_boundary: Callable[[str], None] = lambda word: None,
    ):
        if keep_last < 1 or (keep_every is not None and keep_every < 1):
            raise ValueError(
                f"keep_last={keep_last} and keep_every={keep_every} must be at least 1."
            )
        self.folder = Path(folder).expanduser()
        self.keep_last, self.keep_every = keep_last, keep_every
        self.at_boundary = at_boundary
        self.damaged: list[str] = []
        self._damaged_paths: list[Path] = []
        self.lock = threading.Lock()  # of a save, which a reader waits for

    def steps(self) -> list[int]:
        """Of the complete checkpoints, damaged or not, in order."""
        if not self.folder.is_dir():
            return []
        names = (_NAME.fullmatch(entry.name) for entry in self.folder.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def save(self, step: int, state: dict[str, np.ndarray], record: dict) -> Path:
        """Writes a checkpoint; those that are there stay as they are until it is complete.

        If there is a whole one of the step it stays, as the steps of a run are the same each time; a damaged
        one is replaced.

        Raises:
            OSError: the disk is full or cannot be written to; nothing of the new one is left.
        """
        with self.lock:
            return self._save(step, state, record)

    def _save(self, step: int, state: dict[str, np.ndarray], record: dict) -> Path:
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        final = self.path(step)
        if final.exists():
            if self._is_whole(final, step):
                return final
            os.rename(final, final.with_name(f"{_UNFINISHED}old-{final.name}"))
        unfinished = final.with_name(_UNFINISHED + final.name)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_unfinished()
        try:
            unfinished.mkdir()
            self.at_boundary("made")
            save_file(state, unfinished / _STATE)
            self.at_boundary("state")
            (unfinished / _RECORD).write_text(json.dumps({**record, "step": step}))
            self.at_boundary("record")
            manifest = {name: _fingerprint(unfinished / name) for name in (_STATE, _RECORD)}
            (unfinished / _MANIFEST).write_text(json.dumps(manifest))
            self.at_boundary("manifest")
            for name in (_STATE, _RECORD, _MANIFEST, "."):
                to_disk(unfinished / name)
            self.at_boundary("synced")
        except BaseException as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            if isinstance(error, SafetensorError):
                raise OSError(f"{unfinished / _STATE} could not be written: {error}") from error
            raise
        os.rename(unfinished, final)
        self.at_boundary("renamed")
        to_disk(self.folder)
        self.at_boundary("complete")
        self._remove_unfinished()
        self._set_damaged_aside(final)
        self._remove_old(step)
        self.at_boundary("removed")
        return final

    def newest(self, at_most: float = math.inf) -> Saved | None:
        """The newest whole checkpoint up to a step, or None; `damaged` names those that were passed over."""
        self.damaged, self._damaged_paths = [], []
        with self.lock:
            for step in reversed([step for step in self.steps() if step <= at_most]):
                path = self.path(step)
                try:
                    return self._read(path, step)
                except (OSError, ValueError) as error:
                    self.damaged.append(f"{path} is damaged ({error}).")
                    self._damaged_paths.append(path)
        return None

    def _is_whole(self, path: Path, step: int) -> bool:
        try:
            self._read(path, step)
        except (OSError, ValueError):
            return False
        return True

    def _read(self, path: Path, step: int) -> Saved:
        from safetensors.numpy import load

        manifest = json.loads((path / _MANIFEST).read_text())
        if not isinstance(manifest, dict) or set(manifest) != {_STATE, _RECORD}:
            raise ValueError(f"{_MANIFEST} does not name its files")
        content = {name: (path / name).read_bytes() for name in manifest}
        for name, expected in manifest.items():
            if expected != {
                "size": len(content[name]),
                "sha256": hashlib.sha256(content[name]).hexdigest(),
            }:
                raise ValueError(f"{name} is not as it was written")
        return Saved(step, load(content[_STATE]), json.loads(content[_RECORD]))

    def path(self, step: int) -> Path:
        """Of the checkpoint of a step, which may or may not be there."""
        return self.folder / f"step-{step:08d}"

    def _remove_unfinished(self) -> None:
        for entry in self.folder.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(entry, ignore_errors=True)

    def _set_damaged_aside(self, saved: Path) -> None:
        """Rename those that `newest` found damaged: they count for nothing, and a person may look at them."""
        for path in self._damaged_paths:
            if path.exists() and path != saved:
                os.rename(path, path.with_name(f"{_DAMAGED}{path.name}"))
        self._damaged_paths = []

    def _remove_old(self, newest: int) -> None:
        """Removes checkpoints before that of `newest`, which is whole; of later ones nothing is known."""
        older = [step for step in self.steps() if step < newest]
        for step in older[: max(0, len(older) + 1 - self.keep_last)]:
            if not self.keep_every or step % self.keep_every:
                path = self.path(step)
                # Under a name that no reader takes for complete, while its files go one by one.
                gone = path.with_name(f"{_UNFINISHED}old-{path.name}")
                os.rename(path, gone)
                shutil.rmtree(gone, ignore_errors=True)


def _fingerprint(path: Path) -> dict:
    with open(path, "rb") as file:
        return {
            "size": os.fstat(file.fileno()).st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }
