"""What the trained and the averaged weights are worth while they train, and the best of them kept."""

import math
from collections.abc import Callable

import keras

from nepa_keras import backends
from nepa_keras.training.ema import ema_weights
from nepa_keras.training.one_device import on_one_device
from nepa_keras.types import Logs


class Validation(keras.callbacks.Callback):
    """Adds results of a measurement to the logs, and keeps the best weights.

    The logs get `val_NAME` of the trained and, if the optimizer keeps an average, `ema_val_NAME` of the
    averaged weights, NaN before the first update. The best are the better of both. Put it before the
    callbacks that write logs. With many devices the model that is measured and saved is a copy on one;
    each process measures all, and the first saves.

    Args:
        measure: results of a model by name, such as {"accuracy": 0.7}; larger is better.
        name: the result by which weights are compared.
        save_best: called with the model, while it holds the best weights so far.
        times: about so many measurements in all, of which one is after the first epoch and one after the
            last; the logs between repeat the latest. None measures after each epoch.

    Attributes:
        last: the latest results, as in the logs.
        best: those of the measurement with the best weights, or None.
        best_prefix: of the best weights' results among them, "val" (trained) or "ema_val" (averaged).
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
        """The latest and the best results, for a checkpoint; see `resume.Stateful`."""
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
        # On JAX the newest weights are in the train state until they are synchronised.
        backends.sync(self.model)
        with on_one_device(self.model) as model:
            trained = self.measure(model)
            self.last = last = {f"val_{name}": value for name, value in trained.items()}
            if getattr(model.optimizer, "averages", None):
                last |= {f"ema_val_{name}": math.nan for name in trained}
                if not int(model.optimizer.iterations):  # nothing to choose from yet
                    return
                with ema_weights(model):
                    averaged = self.measure(model)
                    last |= {f"ema_val_{name}": value for name, value in averaged.items()}
                    if not trained[self.name] > averaged[self.name]:  # of equals the averaged
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
        """The result by which the best weights were chosen; NaN where there are none."""
        return self.best[f"{self.best_prefix}_{self.name}"] if self.best else math.nan

    @property
    def best_weights(self) -> str:
        """Which weights are the best, "trained" or "averaged"."""
        return "averaged" if self.best_prefix == "ema_val" else "trained"
