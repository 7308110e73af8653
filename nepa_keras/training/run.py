"""A training run of a number of steps, recorded in a folder, which resumes where it stopped."""

import csv
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from os import PathLike

import keras

from nepa_keras import backends
from nepa_keras.files import is_whole_archive, replacing
from nepa_keras.task import Task
from nepa_keras.training.callbacks import Progress, StepClock, Throughput, TrackerLog
from nepa_keras.training.checkpoints import Checkpoints, Saved
from nepa_keras.training.model_state import restore_metrics, restore_state
from nepa_keras.training.non_finite import GradientNormQuantiles, KeepNonFinite
from nepa_keras.training.one_device import on_one_device
from nepa_keras.training.process_watch import ProcessWatch
from nepa_keras.training.resume import SaveCheckpoints, Stateful, load_stateful
from nepa_keras.training.run_dir import RunDir
from nepa_keras.training.run_lock import RunLock
from nepa_keras.training.trackers import TensorBoardTracker, Tracker, Trackers

_ROWS = 20  # minimum number of log rows
_LONGEST_INTERVAL = 1000  # maximum number of steps per row
_CHECKPOINTS = 10
_ENDED = "The batches ended before the run did: `batches_from` must return endless batches."


class OtherRunError(ValueError):
    """Error for a process, or a run in the same folder, that was started as a different run."""


def fit_steps(
    model: Task,
    batches_from: Callable[[int], Iterable],
    steps: int,
    batch_size: int,
    run_dir: str | PathLike,
    seconds_waited: Callable[[], float] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    keep_last: int = 2,
    keep_every: int | None = None,
    describe_batch: Callable[[int], dict] | None = None,
    replay_with: str | None = None,
    mfu: Callable[[float], float] | None = None,
    identity: Mapping[str, str] | None = None,
    preprocessor: dict | None = None,
    tracker: Tracker | None = None,
) -> None:
    """Train until `steps` batches are done, with one progress bar, and record the run in `run_dir`.

    If the folder has checkpoints, the run resumes from the newest whole one: on CPU bit-identical to an
    uninterrupted run. The number of devices or the backend may have changed. Of several processes the first
    writes and prints; `run_dir` is the same for all. If a process is lost, the others end with one sentence
    within about a minute, see `ProcessWatch`.

    Args:
        model: compiled.
        batches_from: function of a step that returns the endless batches from that step on, as a generator or
            a `tf.data.Dataset`.
        steps: total number of batches.
        batch_size: images per batch over all processes, for the throughput.
        run_dir: folder of the run, created if missing, and locked for this process.
        seconds_waited: see `Throughput`.
        callbacks: additional callbacks, such as `Validation`; what they add to the logs is recorded.
        keep_last, keep_every: which checkpoints are kept, see `Checkpoints`.
        describe_batch, replay_with: see `KeepNonFinite`.
        mfu: see `Throughput`.
        identity: texts that identify the run, by name, such as {"data": data.fingerprint(source)}. They must
            be the same in all processes and when the run resumes.
        preprocessor: see `SaveCheckpoints`; for models loaded from the checkpoints.
        tracker: tracker for the logs, which the caller finishes, such as from `open_trackers`; default
            TensorBoard event files in `run_dir`.

    Raises:
        ImportError: no `tracker` is given, and tensorboardX is missing.
        NonFiniteError: see `Task`.
        Preempted: the process was asked to end; the run is saved.
        CheckpointMismatchError: the checkpoint is of another model.
        OtherRunError: the processes, or the run in the folder, have another identity; or the processes see
            different checkpoints.
        BlockingIOError: another process trains in the folder.
        OSError: a checkpoint could not be written; earlier ones are whole.
        RuntimeError: the batches ended before the run.

    Example:
        >>> def batches_from(step):
        ...     while True:
        ...         yield (images[:8],)
        >>> fit_steps(model, batches_from, steps=2, batch_size=8, run_dir="run")  # doctest: +ELLIPSIS
        first step ... of 2, ...
    """
    run = RunDir(run_dir)
    writes = backends.process()[0] == 0
    with ExitStack() as stack:
        if writes:
            os.makedirs(run, exist_ok=True)
            stack.enter_context(RunLock(run))
        checkpoints = Checkpoints(run.checkpoints, keep_last, keep_every)
        record = _Record(run, identity or {}, writes)
        watch = ProcessWatch(run.processes, *backends.process(), backends.is_lost_process)
        stack.enter_context(watch)
        record.compare_processes()
        stateful = [record, *(part for part in callbacks if isinstance(part, Stateful))]
        saved = _resume(model, checkpoints, stateful, steps)
        watch.start()
        first, state = (saved.step, saved.state) if saved else (0, {})
        if writes:
            run.truncate_log(first)
        if first >= steps:
            if all(backends.all_gather(is_whole_archive(run.model))):
                return
            if writes and run.model.exists():
                print(f"{run.model} is damaged; it is written again from the newest checkpoint")
        if first < steps:
            clock = StepClock(
                first, steps, _interval(steps, model), lambda: restore_metrics(model, state)
            )
            throughput = Throughput(clock, batch_size, seconds_waited, mfu)
            keep = KeepNonFinite(run, checkpoints, clock, describe_batch, replay_with)
            every = math.ceil(steps / _CHECKPOINTS)
            saving = SaveCheckpoints(checkpoints, every, clock, stateful, keep.look, preprocessor)
            recording = []
            if writes:
                log = stack.enter_context(_Log(run.log, append=first > 0))
                if tracker is None:
                    tracker = stack.enter_context(Trackers([TensorBoardTracker(run)]))
                tracker.begin(first)
                events = TrackerLog(tracker)
                recording = [keep, GradientNormQuantiles(), log, events, Progress(throughput)]
            with saving, keep:
                model.fit(
                    _endless(batches_from(first)),
                    steps_per_epoch=clock.interval,
                    initial_epoch=first // clock.interval,
                    epochs=math.ceil(steps / clock.interval),
                    shuffle=False,
                    verbose=0,
                    callbacks=[clock, throughput, *callbacks, *recording, saving],
                )
            if clock.step < steps and not model.stop_training:
                raise RuntimeError(
                    f"{_ENDED} On TensorFlow, {run.compiled} may also be damaged; delete it and start again."
                )
        with on_one_device(model) as whole:
            if writes:
                with replacing(run.model) as path:
                    whole.save(path)


class _Record:
    """Identity and log of a run, as part of its checkpoints, whose checksums protect them."""

    state_name = "run"

    def __init__(self, run: RunDir, identity: Mapping[str, str], writes: bool):
        self.run, self.identity, self.writes = run, dict(identity), writes

    def compare_processes(self) -> None:
        """Refuse processes that were started as different runs."""
        for name, text in self.identity.items():
            digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:3])
            if len(set(backends.all_gather(digest))) > 1:
                raise OtherRunError(
                    f"The processes of the run have different {name}; start each with the same flags and "
                    "give each access to the same images."
                )

    def state_dict(self) -> dict:
        log = self.run.log.read_text() if self.writes and self.run.log.exists() else ""
        return {"identity": self.identity, "log": log}

    def load_state_dict(self, state: dict) -> None:
        for name, begun in state["identity"].items():
            now = self.identity.get(name, begun)
            if now != begun:
                said = "" if len(begun + now) > 200 else f": {begun}, and now {now}"
                raise OtherRunError(
                    f"{self.run} holds a run with other {name}{said}. Restore what it was started with, or "
                    "start a run in another folder."
                )
        if self.writes and self.run.restore_log(state["log"]):
            print(f"{self.run.log} had changed; its rows were restored from the checkpoint")


class _Log(keras.callbacks.CSVLogger):
    """`keras.callbacks.CSVLogger` that keeps an existing file's columns and always closes the file."""

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        if not self.append_header:  # rows of another version of a script can have more columns
            with open(self.filename, newline="", encoding="utf-8") as file:
                self.keys = next(csv.reader(file))[1:]

    def __enter__(self):
        return self

    def __exit__(self, *of_error):
        if self.csv_file is not None:
            self.csv_file.close()


def _endless(batches: Iterable) -> Iterable:
    """Make an exhausted generator raise; Keras would start again from its first batch."""
    if not isinstance(batches, Iterator):
        return batches

    def given():
        yield from batches
        raise RuntimeError(_ENDED)

    return given()


def _interval(steps: int, model: Task) -> int:
    """Steps of a log interval: short enough for curves of short runs, and at least one update."""
    interval = min(math.ceil(steps / _ROWS), _LONGEST_INTERVAL)
    return max(interval, getattr(model.optimizer, "accumulation_steps", 1))


def _resume(model, checkpoints: Checkpoints, stateful: list[Stateful], steps: int) -> Saved | None:
    """Restore the newest whole checkpoint of a run, if it has one."""
    saved = checkpoints.newest()
    say = print if backends.process()[0] == 0 else lambda sentence: None
    for sentence in checkpoints.damaged:
        say(sentence)
    found = backends.all_gather(saved.step if saved else 0)
    if len(set(found)) > 1:
        raise OtherRunError(
            f"The processes found checkpoints of the steps {', '.join(map(str, found))}: "
            f"{checkpoints.folder.parent} must be one folder on a file system that all processes share."
        )
    if saved is not None:
        # Checkpoints of earlier versions have no record of the run.
        known = [
            part for part in stateful if part.state_name in saved.record or part.state_name != "run"
        ]
        load_stateful(saved, known)
        restore_state(model, saved.state)
        say(f"resuming from step {saved.step:,} of {steps:,}")
    return saved
