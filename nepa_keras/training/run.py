"""A training run of so many steps that leaves its record in a folder, and goes on where it was stopped.

RUN_DIR/log.csv            one row per part of the run
RUN_DIR/events.out.*       the same for TensorBoard
RUN_DIR/checkpoints/       what the run goes on from; see `checkpoints`
RUN_DIR/non_finite/        steps that were skipped, to be computed again; see `non_finite`
RUN_DIR/checkpoint.keras   at the end: model, optimizer and averages, for `keras.saving.load_model`
"""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import keras

from nepa_keras import backends
from nepa_keras.task import NonFiniteError, Task
from nepa_keras.training.callbacks import EventLog, Progress, StopAtStep, Throughput
from nepa_keras.training.checkpoints import Checkpoints, restore_metrics, restore_state
from nepa_keras.training.non_finite import GradientNormQuantiles, KeepNonFinite
from nepa_keras.training.one_device import on_one_device
from nepa_keras.training.resume import FirstRow, SaveCheckpoints, cut_log, remember

# A row per 20th of a run, so that short runs have curves too, but at least one in so many steps.
_ROWS = 20
_LONGEST_ROW = 1000
_CHECKPOINTS = 10


def fit_steps(
    model: Task,
    batches_from: Callable[[int], Iterable],
    steps: int,
    batch_size: int,
    run_dir: str | Path,
    seconds_waited: Callable[[], float] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    keep_last: int = 2,
    keep_every: int | None = None,
    describe_batch: Callable[[int], dict] | None = None,
    replay_with: str | None = None,
    mfu: Callable[[float], float] | None = None,
) -> None:
    """Trains until `steps` batches are done, with one progress bar, and records into `run_dir`.

    If the folder has a checkpoint the run goes on from the newest whole one, with the numbers it would have
    had without the break, also on another number of devices or another backend. Of several processes the
    first writes and speaks; `run_dir` is the same for all.

    Args:
        model: compiled.
        batches_from: gives the endless batches from a step on, as a generator or `tf.data.Dataset`.
        steps: batches to train on.
        batch_size: images per batch of all processes, for the throughput.
        run_dir: existing folder.
        seconds_waited: see `Throughput`.
        callbacks: more of them, such as `Validation`; what they add to the logs is recorded.
        keep_last, keep_every: checkpoints that stay, see `Checkpoints`.
        describe_batch, replay_with: see `KeepNonFinite`.
        mfu: see `Throughput`.

    Raises:
        ImportError: tensorboardX is missing.
        NonFiniteError: see `Task`.
        Preempted: the process was asked to end; the run is saved.
        OtherModelError: the checkpoint is of another model.
        ValueError: not all processes see the same checkpoint.
        OSError: a checkpoint could not be written; those before are whole.
    """
    folder = Path(run_dir)
    row = min(math.ceil(steps / _ROWS), _LONGEST_ROW)
    row = max(row, getattr(model.optimizer, "accumulation_steps", 1))  # an update or more
    remembering = [part for part in callbacks if hasattr(part, "remember")]
    checkpoints = Checkpoints(folder / "checkpoints", keep_last, keep_every)
    saved = checkpoints.newest()
    number, _ = backends.process()
    say = print if number == 0 else lambda sentence: None
    for sentence in checkpoints.damaged:
        say(sentence)
    first = 0 if saved is None else saved.step
    found = backends.of_all_processes(first)
    if len(set(found)) > 1:
        raise ValueError(
            f"The processes found checkpoints of the steps {', '.join(map(str, found))}: {folder} must be "
            "one folder, on a file system that all of them share."
        )
    if saved is not None:
        restore_state(model, saved.state)
        remember(saved, remembering)
        say(f"goes on from step {first:,} of {steps:,}")
    if number == 0:
        cut_log(folder / "log.csv", first)
    final = folder / "checkpoint.keras"
    if first >= steps and all(backends.of_all_processes(final.exists())):
        return
    if first < steps:
        throughput = Throughput(batch_size, seconds_waited, first, mfu)
        keep = KeepNonFinite(folder, checkpoints, row, throughput, describe_batch, replay_with)
        recording = []
        if number == 0:
            recording = [
                keep,
                GradientNormQuantiles(),
                keras.callbacks.CSVLogger(folder / "log.csv", append=first > 0),
                EventLog(folder, first),
                Progress(steps, throughput),
            ]
        look = keep.look if number == 0 else lambda **stopped: None
        saving = SaveCheckpoints(
            checkpoints, math.ceil(steps / _CHECKPOINTS), row, throughput, remembering, look
        )
        try:
            with saving:
                model.fit(
                    batches_from(first),
                    steps_per_epoch=row,
                    initial_epoch=first // row,
                    epochs=math.ceil(steps / row),
                    shuffle=False,
                    verbose=0,
                    callbacks=[
                        FirstRow(first % row, row, lambda: restore_metrics(model, saved.state)),
                        throughput,
                        *callbacks,
                        *recording,
                        StopAtStep(steps, throughput),
                        saving,
                    ],
                )
        except NonFiniteError:
            look(stopped=True)
            raise
    with on_one_device(model) as whole:
        if number == 0:
            unfinished = folder / "unfinished-checkpoint.keras"  # a kill leaves no half of a file
            whole.save(unfinished)
            unfinished.replace(final)
