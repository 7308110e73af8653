"""What `fit` says of non-finite steps, which change nothing, and when it gives up."""

import math
import warnings
from collections.abc import Sequence

import keras
from keras import ops

from nepa_keras import backends
from nepa_keras.types import Logs


class NonFiniteError(RuntimeError):
    """Training met too many non-finite steps in a row."""


class WatchNonFinite(keras.callbacks.Callback):
    """Warns of the first skipped step, and stops `fit` once `patience` in a row were skipped.

    A metric that is NaN, as the loss of an epoch without a good step, is not taken for the best by callbacks
    that look for it (EarlyStopping, ModelCheckpoint, ReduceLROnPlateau); Keras' own take the first value they
    see, whatever it is.

    Args:
        patience: steps.
        callbacks: of the same `fit`, which this one comes before.
        every: batches between two looks.
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
                callback.best = math.nan  # nothing is better than that, until the next epoch begins

    def _check(self, batch):
        backends.sync(self.model)
        skipped = self.model.step_metrics["skipped_steps"]
        longest = int(ops.convert_to_numpy(skipped.longest))
        if not longest:
            return
        where = "" if batch is None else f" (seen at batch {batch} of the epoch)"
        causes = (
            f"Likely causes, the likeliest first: {'; '.join(self.model.causes_of_non_finite)}."
        )
        if longest >= self.patience:
            raise NonFiniteError(
                f"{longest} steps in a row had a non-finite loss, gradient or learning rate{where} and were "
                f"skipped; the weights are those of the last good step. {causes}"
            )
        if not self.warned:
            self.warned = True
            warnings.warn(
                f"A step had a non-finite loss, gradient or learning rate{where} and was skipped; the "
                f"weights are as before it. {causes}",
                stacklevel=2,
            )
