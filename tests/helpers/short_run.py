"""A short training run that can be asked to end in the middle, in this process or in one of its own.

KERAS_BACKEND=torch python -m tests.helpers.short_run FOLDER [stops]
"""

import itertools
import os
import signal
import sys

import keras

from nepa_keras.training import Preempted, adamw, fit_steps
from tests.helpers import tiny

STOPPED_AT = 7
SAVED_EARLY = 75  # exit status


def batches(first: int = 0):
    """Another batch at each step, the same whenever a run begins."""
    for step in itertools.count(first):
        yield (tiny.images(4, seed=step),)


class AskToEnd(keras.callbacks.Callback):
    """Sends SIGTERM to this process during a step, as a scheduler does."""

    def __init__(self, step: int = STOPPED_AT):
        super().__init__()
        self.left = step

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    folder, stops = sys.argv[1], sys.argv[2:]
    model = tiny.pretrainer()
    tiny.compile_model(model, adamw(1e-2, ema_decay=0.9))
    try:
        fit_steps(model, batches, 20, 4, folder, callbacks=[AskToEnd()] if stops else [])
    except Preempted:
        sys.exit(SAVED_EARLY)


if __name__ == "__main__":
    main()
