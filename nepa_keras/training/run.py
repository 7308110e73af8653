"""A training run of a number of steps that leaves its record in a folder and resumes where it stopped."""

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

_ROWS = 20  # of the log, at least
_LONGEST_INTERVAL = 1000  # steps of a row, at most
_CHECKPOINTS = 10
_ENDED = "The batches ended before the run did: `batches_from` must give endless ones."


class OtherRunError(ValueError):
    """A process, or a run in the same folder, was started as another run."""


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
    """Trains until `steps` batches are done, with one progress bar, and records into `run_dir`.

    If the folder has a checkpoint the run goes on from the newest whole one, with the numbers it would have
    had without the break, also on another number of devices or another backend. Of several processes the
    first writes and speaks; `run_dir` is the same for all. Where one of them is lost the others end with one
    sentence within about a minute, see `ProcessWatch`.

    Args:
        model: compiled.
        batches_from: gives the endless batches from a step on, as a generator or `tf.data.Dataset`.
        steps: batches to train on.
        batch_size: images per batch of all processes, for the throughput.
        run_dir: folder, made if missing, which is locked for this process.
        seconds_waited: see `Throughput`.
        callbacks: more of them, such as `Validation`; what they add to the logs is recorded.
        keep_last, keep_every: checkpoints that stay, see `Checkpoints`.
        describe_batch, replay_with: see `KeepNonFinite`.
        mfu: see `Throughput`.
        identity: what makes the run what it is, by name, such as {"data": data.fingerprint(source)}. All
            processes must have the same, and so must a run that goes on.
        preprocessor: see `SaveCheckpoints`; of a model from its checkpoints.
        tracker: that takes the logs, and that the caller finishes, such as of `open_trackers`; default
            TensorBoard's event files in `run_dir`.

    Raises:
        ImportError: no `tracker` is given, and tensorboardX is missing.
        NonFiniteError: see `Task`.
        Preempted: the process was asked to end; the run is saved.
        CheckpointMismatchError: the checkpoint is of another model.
        OtherRunError: the processes, or the run in the folder, have another identity; or not all processes
            see the same checkpoint.
        BlockingIOError: another process trains in the folder.
        OSError: a checkpoint could not be written; those before are whole.
        RuntimeError: the batches ended before the run.
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
                print(f"{run.model} is damaged, and written again from the newest checkpoint")
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
                    f"{_ENDED} On TensorFlow it may also be that {run.compiled} is damaged; delete it."
                )
        with on_one_device(model) as whole:
            if writes:
                with replacing(run.model) as path:
                    whole.save(path)


class _Record:
    """What a run is and has recorded so far, as part of its checkpoints, whose checksums cover it."""

    state_name = "run"

    def __init__(self, run: RunDir, identity: Mapping[str, str], writes: bool):
        self.run, self.identity, self.writes = run, dict(identity), writes

    def compare_processes(self) -> None:
        """Refuse processes that were started as different runs."""
        for name, text in self.identity.items():
            digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:3])
            if len(set(backends.all_gather(digest))) > 1:
                raise OtherRunError(
                    f"The processes of the run have different {name}; start each with the same flags, and "
                    "let each see the same images."
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
                    f"{self.run} holds a run with other {name}{said}. Bring back what it was begun with, or "
                    "begin a run in another folder."
                )
        if self.writes and self.run.restore_log(state["log"]):
            print(f"{self.run.log} was not as it was written; its rows are those of the checkpoint")


class _Log(keras.callbacks.CSVLogger):
    """Keras' own, whose file is closed however `fit` ended."""

    def __enter__(self):
        return self

    def __exit__(self, *of_error):
        if self.csv_file is not None:
            self.csv_file.close()


def _endless(batches: Iterable) -> Iterable:
    """The batches of a generator, which Keras would begin again, with its first batch, where it ended."""
    if not isinstance(batches, Iterator):
        return batches

    def given():
        yield from batches
        raise RuntimeError(_ENDED)

    return given()


def _interval(steps: int, model: Task) -> int:
    """Steps of a log interval: so that short runs have curves too, and of one update or more."""
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
            f"{checkpoints.folder.parent} must be one folder, on a file system that all of them share."
        )
    if saved is not None:
        # The record of a run that an earlier version began is not there.
        known = [
            part for part in stateful if part.state_name in saved.record or part.state_name != "run"
        ]
        load_stateful(saved, known)
        restore_state(model, saved.state)
        say(f"goes on from step {saved.step:,} of {steps:,}")
    return saved
