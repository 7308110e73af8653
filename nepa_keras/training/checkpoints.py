"""Checkpoints of a run. A crash at any moment loses at most the steps since the last one.

    RUN_DIR/checkpoints/
        step-00000400/             complete: it gets this name last
            state.safetensors      weights, moving statistics, seeds, optimizer with its averages
            record.json            step, identity of the run, log, state of callbacks
            config.json            class and arguments of the model, place of its weights:
                                   `presets.training_state`
            preprocessor_config.json  how images are prepared, if known
            manifest.json          size and SHA-256 of the other files
        step-00000800/
        unfinished-step-00001200/  left by a crash; removed by the next save
        damaged-step-00001000/     found damaged when the run resumed; renamed by the next save

A checkpoint is written under another name, flushed to disk (fsync) and renamed, and the rename is flushed;
only then older ones are removed. Files are checked against the manifest when read: a damaged checkpoint is
reported, and the one before it is used. `from_preset` also reads the folder of a checkpoint.
"""

import json
import math
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from nepa_keras.files import to_disk
from nepa_keras.manifest import (
    MANIFEST,
    check_content,
    check_files,
    read_manifest,
    write_manifest,
)
from nepa_keras.presets.training_state import STATE

_RECORD = "record.json"
_REQUIRED = (STATE, _RECORD)
_NAME = re.compile(r"step-(\d{8,})")
_UNFINISHED, _DAMAGED = "unfinished-", "damaged-"
T = TypeVar("T")


class Saved(NamedTuple):
    """A checkpoint that was read and found whole.

    Attributes:
        step: steps of the run done.
        state: arrays by name, for `model_state.restore_state`.
        record: JSON content stored with them.
    """

    step: int
    state: dict[str, np.ndarray]
    record: dict


class Checkpoints:
    """The checkpoints in a folder.

    Args:
        folder: created by the first save.
        keep_last: number of newest checkpoints to keep.
        keep_every: also keep those whose step is a multiple of this.
        at_boundary: called with a word between any two operations of a save, for tests that kill the process
            there.

    Attributes:
        damaged: a sentence for each checkpoint that `newest` found damaged.

    Example:
        >>> checkpoints = Checkpoints("checkpoints", keep_last=1)
        >>> path = checkpoints.save(100, {"model/00000": np.zeros(3)}, record={})
        >>> checkpoints.newest().step
        100
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
        self.lock = threading.Lock()  # held during a save, so that readers wait

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, damaged or not, in order."""
        if not self.folder.is_dir():
            return []
        names = (_NAME.fullmatch(entry.name) for entry in self.folder.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def save(
        self,
        step: int,
        state: dict[str, np.ndarray],
        record: dict,
        described: Mapping[str, dict] | None = None,
    ) -> Path:
        """Write a checkpoint; existing ones stay as they are until it is complete.

        An existing whole checkpoint of the same step is kept, as the steps of a run are deterministic; a
        damaged one is replaced.

        Args:
            step, state, record: see `Saved`.
            described: JSON files by name, from `describe_model`, that make the folder loadable by
                `from_preset`.

        Raises:
            OSError: the disk is full or not writable; nothing of the new checkpoint is left.
        """
        with self.lock:
            return self._save(step, state, {_RECORD: {**record, "step": step}, **(described or {})})

    def _save(self, step: int, state: dict[str, np.ndarray], texts: dict[str, dict]) -> Path:
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        final = self.path(step)
        if final.exists():
            if self._is_whole(final):
                return final
            os.rename(final, final.with_name(f"{_UNFINISHED}old-{final.name}"))
        unfinished = final.with_name(_UNFINISHED + final.name)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._remove_unfinished()
        try:
            unfinished.mkdir()
            self.at_boundary("made")
            save_file(state, unfinished / STATE)
            self.at_boundary("state")
            for name, content in texts.items():
                (unfinished / name).write_text(json.dumps(content))
            self.at_boundary("record")
            write_manifest(unfinished, (STATE, *texts))
            self.at_boundary("manifest")
            for name in (STATE, *texts, MANIFEST, "."):
                to_disk(unfinished / name)
            self.at_boundary("synced")
        except BaseException as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            if isinstance(error, SafetensorError):
                raise OSError(f"{unfinished / STATE} could not be written: {error}") from error
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
        """Read the newest whole checkpoint up to a step, or None; `damaged` lists the skipped ones."""
        return self._newest(self._read, at_most)

    def newest_step(self) -> int | None:
        """Step of the newest whole checkpoint, checked without loading it; see `newest`."""

        def check(path: Path, step: int) -> int:
            check_files(path, _REQUIRED)
            return step

        return self._newest(check)

    def record(self, step: int) -> dict:
        """Read the record of a step's checkpoint, even if other files of it are damaged.

        Raises:
            OSError, ValueError: the record is missing or damaged.
        """
        path = self.path(step)
        content = (path / _RECORD).read_bytes()
        check_content(_RECORD, content, read_manifest(path, _REQUIRED)[_RECORD])
        return json.loads(content)

    def _newest(self, look: Callable[[Path, int], T], at_most: float = math.inf) -> T | None:
        self.damaged, self._damaged_paths = [], []
        with self.lock:
            for step in reversed([step for step in self.steps() if step <= at_most]):
                path = self.path(step)
                try:
                    return look(path, step)
                except (OSError, ValueError) as error:
                    self.damaged.append(f"{path} is damaged ({error}).")
                    self._damaged_paths.append(path)
        return None

    def _is_whole(self, path: Path) -> bool:
        try:
            check_files(path, _REQUIRED)
        except (OSError, ValueError):
            return False
        return True

    def _read(self, path: Path, step: int) -> Saved:
        from safetensors.numpy import load

        content = {}
        for name, expected in read_manifest(path, _REQUIRED).items():
            content[name] = (path / name).read_bytes()
            check_content(name, content[name], expected)
        return Saved(step, load(content[STATE]), json.loads(content[_RECORD]))

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of a step, which need not exist."""
        return self.folder / f"step-{step:08d}"

    def _remove_unfinished(self) -> None:
        for entry in self.folder.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(entry, ignore_errors=True)

    def _set_damaged_aside(self, saved: Path) -> None:
        """Rename checkpoints that `newest` found damaged: they are ignored, but kept for inspection."""
        for path in self._damaged_paths:
            if path.exists() and path != saved:
                os.rename(path, path.with_name(f"{_DAMAGED}{path.name}"))
        self._damaged_paths = []

    def _remove_old(self, newest: int) -> None:
        """Remove checkpoints before `newest`, which is whole; later ones are left alone."""
        older = [step for step in self.steps() if step < newest]
        for step in older[: max(0, len(older) + 1 - self.keep_last)]:
            if not self.keep_every or step % self.keep_every:
                path = self.path(step)
                # Renamed first: its files are deleted one by one, and no reader may take it for complete.
                gone = path.with_name(f"{_UNFINISHED}old-{path.name}")
                os.rename(path, gone)
                shutil.rmtree(gone, ignore_errors=True)
