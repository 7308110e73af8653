"""A training run of so many steps that leaves its record in a folder.

RUN_DIR/log.csv            one row per part of the run
RUN_DIR/events.out.*       the same for TensorBoard
RUN_DIR/checkpoint.keras   model, optimizer and averages
"""

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import keras

from nepa_keras.training.callbacks import EventLog, Progress, SaveModel, StopAtStep, Throughput

# A row per 20th of a run, so that short runs have curves too, but at least one in so many steps.
_ROWS = 20
_LONGEST_ROW = 1000
_CHECKPOINTS = 10


def fit_steps(
    model: keras.Model,
    batches: Iterable,
    steps: int,
    batch_size: int,
    run_dir: str | Path,
    seconds_waited: Callable[[], float] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Trains for exactly `steps` batches, with one progress bar, and records into `run_dir`.

    Args:
        model: compiled.
        batches: endless generator or `tf.data.Dataset` of batches.
        steps: batches to train on.
        batch_size: images per batch, for the throughput.
        run_dir: existing folder.
        seconds_waited: see `Throughput`.
        callbacks: more of them, such as `Validation`; what they add to the logs is recorded.

    Raises:
        ImportError: tensorboardX is missing.
        NonFiniteError: see `GuardedModel`.
    """
    folder = Path(run_dir)
    row = min(math.ceil(steps / _ROWS), _LONGEST_ROW)
    row = max(row, getattr(model.optimizer, "accumulation_steps", 1))  # an update or more
    throughput = Throughput(batch_size, seconds_waited)
    model.fit(
        batches,
        steps_per_epoch=row,
        epochs=math.ceil(steps / row),
        shuffle=False,
        verbose=0,
        callbacks=[
            throughput,
            *callbacks,
            keras.callbacks.CSVLogger(folder / "log.csv"),
            EventLog(folder),
            SaveModel(folder / "checkpoint.keras", math.ceil(steps / _CHECKPOINTS), throughput),
            Progress(steps, throughput),
            StopAtStep(steps, throughput),
        ],
    )
