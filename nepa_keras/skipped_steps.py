"""Non-finite steps in `fit`: warnings about skipped steps, and the error that ends training."""

import math
import warnings
from collections.abc import Sequence

import keras
from keras import ops

from nepa_keras import backends
from nepa_keras.types import Logs


class NonFiniteError(RuntimeError):
    """Error for too many non-finite steps in a row."""


class WatchNonFinite(keras.callbacks.Callback):
    """Callback that warns at the first skipped step and stops `fit` after `patience` skipped steps in a row.

    EarlyStopping, ModelCheckpoint and ReduceLROnPlateau take the first value of their metric as the best one,
    even NaN (the loss of an epoch without a finite step). This callback makes them ignore NaN.

    Args:
        patience: steps in a row.
        callbacks: the other callbacks of the same `fit`, which run after this one.
        every: batches between two checks.
    """

    def __init__(
        self, patience: float, callbacks: Sequence[keras.callbacks.Callback] = (), every: int = 20
    ):
        super().__init__()
        self.patience = patience
        self.every = every
        self.seeking = [c for c in callbacks if hasattr(c, "monitor") and hasattr(c, "best")]
        self.warned = False

    def on_train_begin(self, logs=None):
        skipped = self.model.step_metrics["skipped_steps"]
        skipped.streak.assign(0.0)
        skipped.longest.assign(0.0)

    def on_train_batch_end(self, batch, logs=None):
        if (batch + 1) % self.every == 0:
            self._check(batch)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        for callback in self.seeking:
            if callback.best is not None and math.isnan(callback.best):
                callback.best = None

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._check(None)
        for callback in self.seeking:
            if callback.best is None and math.isnan((logs or {}).get(callback.monitor, 0.0)):
                callback.best = math.nan  # no value beats NaN; reset when the next epoch begins

    def _check(self, batch):
        backends.sync(self.model)
        skipped = self.model.step_metrics["skipped_steps"]
        longest = int(ops.convert_to_numpy(skipped.longest))
        if not longest:
            return
        where = "" if batch is None else f" (seen at batch {batch} of the epoch)"
        causes = f"Likely causes, most likely first: {'; '.join(self.model.causes_of_non_finite)}."
        if longest >= self.patience:
            raise NonFiniteError(
                f"{longest} steps in a row had a non-finite loss, gradient or learning rate{where} and were "
                f"skipped; the weights are those of the last good step. {causes}"
            )
        if not self.warned:
            self.warned = True
            warnings.warn(
                f"A step had a non-finite loss, gradient or learning rate{where} and was skipped; the "
                f"weights did not change. {causes}",
                stacklevel=2,
            )
