"""Weights & Biases: a run stored in RUN_DIR/wandb for `wandb sync`, or sent directly."""

import os
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nepa_keras.packages import required_for
from nepa_keras.training.trackers.record import RecordedTracker

# Seconds until wandb has written what was logged, with room: it writes each 15 s, and a kill takes the rest.
_WRITTEN_AFTER = 60.0


class WandbTracker(RecordedTracker):
    """A run in Weights & Biases, offline unless WANDB_MODE is set.

    The project is WANDB_PROJECT, by default nepa_keras; the run is named like the folder. Offline, each start
    creates a folder RUN_DIR/wandb/offline-run-*; `wandb sync` merges those with the same id.

    Args:
        run_dir: folder of the run.
        config: configuration, such as flags.

    Raises:
        ImportError: wandb is missing.
        ValueError: see `TrackerRecord`.
    """

    name = "Weights & Biases"

    def __init__(self, run_dir: str | os.PathLike, config: Mapping[str, str] | None = None):
        with required_for("The tracker wandb", "wandb"):
            import wandb
        self.errors: tuple[type[Exception], ...] = (wandb.Error, OSError)
        self._wandb: Any = wandb
        super().__init__(run_dir, config, "wandb")
        self.run: Any = None
        self.step = self.record.step  # the last that was logged
        self._unwritten: deque[tuple[float, int]] = deque()  # when steps were logged

    def begin(self, step: int) -> None:
        self._open()

    def _open(self) -> Any:
        """Return the run; the first call creates or reopens it."""
        if self.run is None:
            identity = self.record.id or uuid.uuid4().hex[:8]
            self.run = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT") or "nepa_keras",
                name=self.run_dir.path.resolve().name,
                id=identity,
                resume="allow",
                mode=os.environ.get("WANDB_MODE") or "offline",
                dir=str(self.run_dir),
                config=self.config,
                settings=self._wandb.Settings(console="off", silent=True),
            )
            # Use training steps as the x axis, not the number of calls.
            self.run.define_metric("step")
            self.run.define_metric("*", step_metric="step")
            self.record.keep(identity, self.record.step)
            self.send_missing()
        return self.run

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        run, now, written = self._open(), time.monotonic(), 0
        if step <= self.step:
            return
        run.log({**values, "step": step})
        self.step = step
        self._unwritten.append((now, step))
        while now - self._unwritten[0][0] > _WRITTEN_AFTER:
            _, written = self._unwritten.popleft()
        if written:
            self.record.keep(run.id, written)

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._open().log({name: self._wandb.Image(pixels), "step": step})

    def table(self, name: str, rows: Sequence[Sequence[str]], step: int) -> None:
        head, *body = [list(map(str, row)) for row in rows]
        self._open().log({name: self._wandb.Table(columns=head, data=body), "step": step})

    def finish(self, complete: bool) -> None:
        if self.run is not None:
            self.run.finish(exit_code=0 if complete else 1)
            self.record.keep(self.run.id, self.step)
            self.run = None
