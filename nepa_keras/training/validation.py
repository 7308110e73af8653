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

    The logs get `val_NAME` of the trained and `ema_val_NAME` of the averaged weights, NaN before the first
    update; the latter, by which the best are chosen, only if the optimizer keeps an average. Put it before
    the callbacks that write logs. With many devices the model that is measured and saved is a copy on one;
    each process measures all, and the first saves.

    Args:
        measure: results of a model by name, such as {"accuracy": 0.7}; larger is better.
        name: the result by which weights are compared.
        save_best: called with the model, while it holds the best weights so far.
        times: about so many measurements in all, of which one is after the first epoch and one after the
            last; the logs between repeat the latest. None measures after each epoch.

    Attributes:
        last: the latest results, as in the logs.
        best: those of the best weights, or None.
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

    def state_dict(self) -> dict:
        """The latest and the best results, for a checkpoint; see `resume.Stateful`."""
        return {"last": self.last, "best": self.best}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.last, self.best = state["last"], state["best"]

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
            found = self.measure(model)
            self.last = last = {f"val_{k}": v for k, v in found.items()}
            if getattr(model.optimizer, "averages", None):
                last |= {f"ema_val_{k}": math.nan for k in found}
                if int(model.optimizer.iterations):
                    with ema_weights(model):
                        found = self.measure(model)
                        last |= {f"ema_val_{k}": v for k, v in found.items()}
                        self._keep_if_best(model, "ema_val_", {**logs, **last})
            else:
                self._keep_if_best(model, "val_", {**logs, **last})

    def _keep_if_best(self, model: keras.Model, kind: str, results: dict[str, float]) -> None:
        key = kind + self.name
        if not math.isfinite(results[key]):
            return
        if self.best is None or results[key] > self.best[key]:
            self.best = results
            if self.save_best is not None and backends.process()[0] == 0:
                self.save_best(model)
