"""What the trained and the averaged weights are worth while they train, and the best of them kept."""

import math
from collections.abc import Callable

import keras

from nepa_keras.training.ema import ema_weights


class Validation(keras.callbacks.Callback):
    """Adds results of a measurement to the logs of each epoch, and keeps the best weights.

    The logs get `val_NAME` of the trained and `ema_val_NAME` of the averaged weights, NaN before the first
    update. Put it before the callbacks that write logs.

    Args:
        measure: results of a model by name, such as {"accuracy": 0.7}; larger is better.
        name: the result by which the averaged weights are compared.
        save_best: called with the model, while it holds the best averaged weights so far.

    Attributes:
        last: the results of the last epoch, as in the logs.
        best: the same of the epoch whose averaged weights were the best, or None.
    """

    def __init__(
        self,
        measure: Callable[[keras.Model], dict[str, float]],
        name: str = "accuracy",
        save_best: Callable[[keras.Model], None] | None = None,
    ):
        super().__init__()
        self.measure = measure
        self.name = name
        self.save_best = save_best
        self.last = self.best = None

    def on_epoch_end(self, epoch, logs=None):
        # On JAX the newest weights are in the train state until they are synchronised.
        getattr(self.model, "jax_state_sync", lambda: None)()
        found = self.measure(self.model)
        self.last = {f"val_{k}": v for k, v in found.items()}
        self.last |= {f"ema_val_{k}": math.nan for k in found}
        if int(self.model.optimizer.iterations):
            with ema_weights(self.model):
                found = self.measure(self.model)
                self.last |= {f"ema_val_{k}": v for k, v in found.items()}
                self._keep_if_best(found[self.name], logs)
        logs.update(self.last)

    def _keep_if_best(self, result: float, logs: dict) -> None:
        if not math.isfinite(result):
            return
        if self.best is None or result > self.best[f"ema_val_{self.name}"]:
            self.best = {**logs, **self.last}
            if self.save_best is not None:
                self.save_best(self.model)
