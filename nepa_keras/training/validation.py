"""Validation during training, of trained and averaged weights; the best weights are saved."""

import math
from collections.abc import Callable

import keras

from nepa_keras import backends
from nepa_keras.training.ema import ema_weights
from nepa_keras.training.one_device import on_one_device
from nepa_keras.types import Logs


class Validation(keras.callbacks.Callback):
    """Measure the model during training, log the results and save the best weights.

    The logs get `val_NAME` for the trained weights and, if the optimizer keeps averages, `ema_val_NAME` for
    the averaged ones (NaN before the first update). The best weights are the better of both. Put this
    callback before those that write logs. With many devices a copy on one device is measured and saved; every
    process measures, and the first saves.

    Args:
        measure: function of a model that returns results by name, such as {"accuracy": 0.7}; larger is
            better.
        name: the result by which weights are compared.
        save_best: called with the model while it holds the best weights so far.
        times: approximate number of measurements, including one after the first and one after the last epoch;
            the logs between repeat the latest results. None measures after each epoch.

    Attributes:
        last: latest results, as logged.
        best: results of the measurement with the best weights, or None.
        best_prefix: prefix of the best results, "val" (trained) or "ema_val" (averaged).

    Example:
        >>> def measure(model):
        ...     return {"accuracy": -model.evaluate(images, verbose=0)["loss"]}
        >>> validation = Validation(measure)
        >>> history = model.fit(images, batch_size=8, verbose=0, callbacks=[validation])
        >>> sorted(validation.last)
        ['ema_val_accuracy', 'val_accuracy']
    """

    state_name = "validation"

    def __init__(
        self,
        measure: Callable[[keras.Model], dict[str, float]],
        name: str = "accuracy",
        save_best: Callable[[keras.Model], None] | None = None,
        times: int | None = None,
    ):
        super().__init__()
        self.measure = measure
        self.name = name
        self.save_best = save_best
        self.times = times
        self.last: dict[str, float] | None = None
        self.best: dict[str, float] | None = None
        self.best_prefix = "val"

    def state_dict(self) -> dict:
        """Return the latest and best results, for a checkpoint; see `resume.Stateful`."""
        return {"last": self.last, "best": self.best, "best_prefix": self.best_prefix}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.last, self.best = state["last"], state["best"]
        self.best_prefix = state["best_prefix"]

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        epochs = self.params["epochs"]
        every = math.ceil(epochs / (self.times or epochs))
        if self.last is None or epoch % every == 0 or epoch == epochs - 1:
            self._measure(logs)
        logs.update(self.last)

    def _measure(self, logs: dict) -> None:
        # On JAX the newest weights are in the training state until they are synchronised.
        backends.sync(self.model)
        with on_one_device(self.model) as model:
            trained = self.measure(model)
            self.last = last = {f"val_{name}": value for name, value in trained.items()}
            if getattr(model.optimizer, "averages", None):
                last |= {f"ema_val_{name}": math.nan for name in trained}
                if not int(model.optimizer.iterations):  # no averages before the first update
                    return
                with ema_weights(model):
                    averaged = self.measure(model)
                    last |= {f"ema_val_{name}": value for name, value in averaged.items()}
                    if not trained[self.name] > averaged[self.name]:  # prefer averages if equal
                        self._keep_if_best(model, "ema_val", {**logs, **last})
            self._keep_if_best(model, "val", {**logs, **last})

    def _keep_if_best(self, model: keras.Model, prefix: str, results: dict[str, float]) -> None:
        result = results[f"{prefix}_{self.name}"]
        if not math.isfinite(result) or (self.best is not None and result <= self.best_result):
            return
        self.best, self.best_prefix = results, prefix
        if self.save_best is not None and backends.process()[0] == 0:
            self.save_best(model)

    @property
    def best_result(self) -> float:
        """Result by which the best weights were chosen; NaN if there are none."""
        return self.best[f"{self.best_prefix}_{self.name}"] if self.best else math.nan

    @property
    def best_weights(self) -> str:
        """Kind of the best weights, "trained" or "averaged"."""
        return "averaged" if self.best_prefix == "ema_val" else "trained"
