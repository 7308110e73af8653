"""Checkpoints while `fit` runs, with the state of callbacks, for resuming a run."""

import functools
import operator
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import keras
import numpy as np

from nepa_keras import backends
from nepa_keras.training.callbacks import StepClock
from nepa_keras.training.checkpoints import Checkpoints, Saved
from nepa_keras.training.described_model import describe_model
from nepa_keras.training.model_state import metrics_state, model_state
from nepa_keras.types import Logs

_LONGEST_PAUSE = 1800.0  # seconds between two checkpoints
_EXCHANGE_EVERY = 10  # steps between exchanges of flags between processes
_ASKED, _OVERDUE, _FAILED = 1, 2, 4  # bits of these flags


class Preempted(Exception):
    """Raised after the process was asked to end and the run was saved."""


@runtime_checkable
class Stateful(Protocol):
    """A callback whose state is part of a checkpoint, such as the best result so far."""

    state_name: str  # key in the checkpoint

    def state_dict(self) -> dict:
        """Return the state: arrays, and values that JSON can hold."""

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""


class SaveCheckpoints(keras.callbacks.Callback):
    """Save the run at its start, at intervals, and when the process is asked to end (SIGTERM, Ctrl-C).

    The state is copied between two steps, and a thread writes it during the next ones. Put this callback
    after those that write the log, so that a checkpoint at the end of a log interval includes its row. It is
    also a context around `fit`:

        with saving:
            model.fit(..., callbacks=[..., saving])

    On exit the last checkpoint is written, however `fit` ended. A second Ctrl-C ends the process at once. Of
    several processes the first writes; if one is asked to end, all end after the same step.

    Args:
        checkpoints: where to save.
        every_steps: batches between two checkpoints. There is one at least every half hour, and at the steps
            that `checkpoints` keeps for good (`keep_every`).
        clock: the `StepClock` of the same `fit`.
        stateful: callbacks whose state is saved.
        before_save: called before each save, while the checkpoints that it removes still exist.
        preprocessor: how images are prepared, the content of a `preprocessor_config.json`; default that of
            the checkpoint the model was loaded from, if any.

    Raises:
        Preempted: from `fit`, after SIGTERM or Ctrl-C; the current step is completed (with several processes,
            a few more).
        OSError: from `fit` or at the end of the context, on all processes, if a checkpoint could not be
            written.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        every_steps: int,
        clock: StepClock,
        stateful: Sequence[Stateful] = (),
        before_save: Callable[[], None] = lambda: None,
        preprocessor: dict | None = None,
    ):
        super().__init__()
        self.checkpoints, self.every_steps = checkpoints, every_steps
        self.clock, self.stateful = clock, stateful
        self.before_save, self.preprocessor = before_save, preprocessor
        self.saved_at, self.saved_when = clock.step, time.monotonic()
        self.asked_to_end = False
        self.number, self.processes = backends.process()
        self.writing: Future | None = None

    def __enter__(self):
        self.writer = ThreadPoolExecutor(1, "nepa_keras-checkpoint")
        self.in_main_thread = threading.current_thread() is threading.main_thread()
        self.before = {}
        if self.in_main_thread:  # signal handlers are allowed in this thread only
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not signal.SIG_IGN:  # set by nohup and shells
                    self.before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, kind, error, trace):
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.writer.shutdown()
        if error is None:
            self._wait()

    def on_train_begin(self, logs=None):
        if self.clock.step == 0:  # a replay of the first steps needs a checkpoint
            self._save()

    def _ask(self, number, frame):
        self.asked_to_end = True
        if (
            number == signal.SIGINT and self.processes == 1
        ):  # launchers of several repeat the signal
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.write(
                2,
                b"\nThe run will end after this step and be saved; Ctrl-C again ends it at once.\n",
            )

    def on_train_batch_end(self, batch, logs=None):
        # At the end of a log interval or the run, `on_epoch_end` saves after the row is written.
        if self.clock.step % self.clock.interval and not self.model.stop_training:
            self._save_if_due(together=self.clock.step % _EXCHANGE_EVERY == 0)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._save_if_due(together=True)

    def on_train_end(self, logs=None):
        if self.clock.step != self.saved_at:
            self._save()

    def _save_if_due(self, together: bool):
        known = _ASKED * self.asked_to_end
        known |= _OVERDUE * (time.monotonic() - self.saved_when >= _LONGEST_PAUSE)
        known |= _FAILED * (self.writing is not None and self.writing.done() and self._failed())
        if self.processes > 1:
            all_known = backends.all_gather(known) if together else []
            known = functools.reduce(operator.or_, all_known, 0)
        if known & _FAILED:
            self._wait()
        step, keep_every = self.clock.step, self.checkpoints.keep_every
        due = step - self.saved_at >= self.every_steps or (keep_every and step % keep_every == 0)
        if due or known & (_OVERDUE | _ASKED):
            self._save()
        if known & _ASKED:
            self._wait()
            raise Preempted(f"saved at step {self.clock.step}")

    def _save(self):
        self._wait()
        self.before_save()
        arrays, record = _stateful_state(self.stateful)
        state = model_state(self.model) | metrics_state(self.model) | arrays
        step = self.clock.step
        self.saved_at, self.saved_when = step, time.monotonic()
        if self.number == 0:
            described = describe_model(self.model, state, self.preprocessor)
            self.writing = self.writer.submit(self.checkpoints.save, step, state, record, described)

    def _failed(self) -> bool:
        """Tell whether the last checkpoint failed to be written, waiting for the result."""
        return self.writing is not None and self.writing.exception() is not None

    def _wait(self):
        """Wait for the last checkpoint; all processes together, so that all learn of a failure."""
        if any(backends.all_gather(self._failed())):
            if self.writing is not None:
                self.writing.result()
            raise OSError("the first process could not write a checkpoint")
        self.writing = None


def load_stateful(saved: Saved, stateful: Sequence[Stateful]) -> None:
    """Restore callbacks from a checkpoint of `SaveCheckpoints`.

    Raises:
        ValueError: the checkpoint has no state of one of them.
    """
    for part in stateful:
        name = part.state_name
        if name not in saved.record:
            raise ValueError(
                f"The checkpoint of step {saved.step} has no state of {name!r}, as the run was started "
                f"without {type(part).__name__}; start a new run with it, or go on without it."
            )
        arrays = {
            key.removeprefix(f"{name}/"): value
            for key, value in saved.state.items()
            if key.startswith(f"{name}/")
        }
        part.load_state_dict({**saved.record[name], **arrays})


def _stateful_state(stateful: Sequence[Stateful]) -> tuple[dict[str, np.ndarray], dict]:
    """Collect the states of callbacks: arrays by name, and the rest as JSON."""
    arrays: dict[str, np.ndarray] = {}
    record: dict[str, dict] = {}
    for part in stateful:
        record[part.state_name] = rest = {}
        for key, value in part.state_dict().items():
            if isinstance(value, np.ndarray):
                arrays[f"{part.state_name}/{key}"] = value
            else:
                rest[key] = value
    return arrays, record
