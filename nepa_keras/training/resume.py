"""What makes a run go on where it was: checkpoints while `fit` works, and the rest of a row that was begun.

A row is what the log has a line for: so many steps, an epoch of `fit`.
"""

import csv
import functools
import operator
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import keras
import numpy as np

from nepa_keras import backends
from nepa_keras.training.callbacks import Throughput
from nepa_keras.training.checkpoints import Checkpoints, Saved, metrics_state, model_state

_LONGEST_PAUSE = 1800.0  # seconds between two checkpoints
_EXCHANGE_EVERY = 10  # steps, what each of several processes knows
_ASKED, _OVERDUE, _FAILED = 1, 2, 4  # which is the sum of these


class Preempted(Exception):
    """The process was asked to end, and the run is saved."""


class Remembering(Protocol):
    """What a callback has that must know again what it knew, such as the best result so far."""

    name_in_record: str

    def record(self) -> dict:
        """Of what JSON can hold, and arrays."""

    def remember(self, record: dict) -> None:
        """Takes up what `record` gave."""


class SaveCheckpoints(keras.callbacks.Callback):
    """Saves the run at its start, now and then, and when the process is asked to end (SIGTERM).

    The state is copied between two steps, and a thread writes it while the next ones are made. Put it after
    the callbacks that write the log or end the epoch, so that a checkpoint at the end of a row is of a run
    whose log has the row. It is a context around `fit`, too:

        with saving:
            model.fit(..., callbacks=[..., saving])

    At its end the last checkpoint is written, however `fit` ended.

    Of several processes the first writes; where one is asked to end, all do so after the same step.

    Args:
        checkpoints: where to.
        every_steps: batches between two; half an hour is the most, however many it takes, and the steps
            that `checkpoints` keeps are saved, too.
        row: steps of a row.
        throughput: the `Throughput` of the same `fit`, which counts the steps.
        remembering: callbacks whose record is kept.
        before_save: called while the checkpoints that a save removes are still there.

    Raises:
        Preempted: from `fit`, in the middle of it, when SIGTERM came; the step that was under way is done
            (of several processes, a few more).
        OSError: from `fit`, or at the end of the context, when a checkpoint could not be written; of all
            processes.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        every_steps: int,
        row: int,
        throughput: Throughput,
        remembering: Sequence[Remembering] = (),
        before_save: Callable[[], None] = lambda: None,
    ):
        super().__init__()
        self.checkpoints, self.every_steps, self.row = checkpoints, every_steps, row
        self.throughput, self.remembering = throughput, remembering
        self.before_save = before_save
        self.saved_at, self.saved_when = throughput.step, time.monotonic()
        self.asked_to_end = False
        self.number, self.processes = backends.process()
        self.writing = None  # a future

    def __enter__(self):
        self.writer = ThreadPoolExecutor(1, "nepa_keras-checkpoint")
        self.in_main_thread = threading.current_thread() is threading.main_thread()
        if self.in_main_thread:  # no other may listen to signals
            self.before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, kind, error, trace):
        if self.in_main_thread:
            signal.signal(signal.SIGTERM, self.before)
        self.writer.shutdown()
        if error is None:
            self._wait()

    def on_train_begin(self, logs=None):
        if self.throughput.step == 0:  # what a replay of the first steps begins with
            self._save()

    def _ask(self, number, frame):
        self.asked_to_end = True

    def on_train_batch_end(self, batch, logs=None):
        # At the end of a row, or of the run, its line is written first.
        if self.throughput.step % self.row and not self.model.stop_training:
            self._save_if_due(self.throughput.step % _EXCHANGE_EVERY == 0)

    def on_epoch_end(self, epoch, logs=None):
        self._save_if_due(together=True)

    def on_train_end(self, logs=None):
        if self.throughput.step != self.saved_at:
            self._save()

    def _save_if_due(self, together: bool):
        known = _ASKED * self.asked_to_end
        known |= _OVERDUE * (time.monotonic() - self.saved_when >= _LONGEST_PAUSE)
        known |= _FAILED * (self.writing is not None and self.writing.done() and self._failed())
        if self.processes > 1:
            all_known = backends.of_all_processes(known) if together else []
            known = functools.reduce(operator.or_, all_known, 0)
        if known & _FAILED:
            self._wait()
        step, keep_every = self.throughput.step, self.checkpoints.keep_every
        due = step - self.saved_at >= self.every_steps or (keep_every and step % keep_every == 0)
        if due or known & (_OVERDUE | _ASKED):
            self._save()
        if known & _ASKED:
            self._wait()
            raise Preempted(f"saved at step {self.throughput.step}")

    def _save(self):
        self._wait()
        self.before_save()
        state = model_state(self.model) | metrics_state(self.model)
        record = {}
        for part in self.remembering:
            name, found = part.name_in_record, part.record()
            arrays = {key: value for key, value in found.items() if isinstance(value, np.ndarray)}
            state |= {f"{name}/{key}": value for key, value in arrays.items()}
            record[name] = {key: value for key, value in found.items() if key not in arrays}
        step = self.throughput.step
        self.saved_at, self.saved_when = step, time.monotonic()
        if self.number == 0:
            self.writing = self.writer.submit(self.checkpoints.save, step, state, record)

    def _failed(self) -> bool:
        """Whether the last checkpoint could not be written, once that is known."""
        return self.writing is not None and self.writing.exception() is not None

    def _wait(self):
        """Until the last checkpoint is written; all processes together, as all have to know if it is not."""
        if any(backends.of_all_processes(self._failed())):
            if self.number == 0:
                self.writing.result()
            raise OSError("the first process could not write a checkpoint")
        self.writing = None


def remember(saved: Saved, remembering: Sequence[Remembering]) -> None:
    """Gives callbacks back what `SaveCheckpoints` kept of them."""
    for part in remembering:
        name = part.name_in_record
        arrays = {
            key.removeprefix(f"{name}/"): value
            for key, value in saved.state.items()
            if key.startswith(f"{name}/")
        }
        part.remember({**saved.record[name], **arrays})


class FirstRow(keras.callbacks.Callback):
    """Ends the first epoch of a resumed `fit` where its row ends, and gives it the means of the steps before.

    Put it before `Throughput`.

    Args:
        done: steps of the row that were done before.
        row: steps of a row.
        restore_metrics: called when `fit` has reset them.
    """

    def __init__(self, done: int, row: int, restore_metrics: Callable[[], None]):
        super().__init__()
        self.done, self.row, self.restore_metrics = done, row, restore_metrics

    def on_epoch_begin(self, epoch, logs=None):
        if self.done:
            self.restore_metrics()

    def on_train_batch_end(self, batch, logs=None):
        if self.done and self.done + batch + 1 >= self.row:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if self.done:
            self.model.stop_training = False
        self.done = 0


def cut_log(path: Path, step: int) -> None:
    """Takes away rows of a CSV log that a killed run wrote after the checkpoint of a step."""
    if not path.exists():
        return
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    place = rows[0].index("step") if rows and "step" in rows[0] else None
    kept = [row for row in rows[1:] if place is not None and _at_most(row, place, step)]
    unfinished = path.with_name(f"unfinished-{path.name}")
    with open(unfinished, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([*rows[:1], *kept])
    unfinished.replace(path)


def _at_most(row: list[str], place: int, step: int) -> bool:
    try:
        return float(row[place]) <= step
    except (IndexError, ValueError):  # a line that was cut by the kill
        return False
