"""What the trained and the averaged weights are worth while they train, and the best of them kept."""

from collections.abc import Callable

import keras

from nepa_keras.training.ema import ema_weights


class Validation(keras.callbacks.Callback):
    """Adds results of a measurement to the logs of each epoch, and keeps the best weights.

    The logs get `val_NAME` of the trained and `ema_val_NAME` of the averaged weights. Put it before the
    callbacks that write logs.

    Args:
        measure: results of a model by name, such as {"accuracy": 0.7}; larger is better.
        name: the result by which the averaged weights are compared.
        save_best: called with the model, while it holds the best averaged weights so far.

    Attributes:
        best: the best result, and the logs it came with.
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
        self.best = None

    def on_epoch_end(self, epoch, logs=None):
        # On JAX the newest weights are in the train state until they are synchronised.
        getattr(self.model, "jax_state_sync", lambda: None)()
        logs.update({f"val_{k}": v for k, v in self.measure(self.model).items()})
        if not int(self.model.optimizer.iterations):
            return
        with ema_weights(self.model):
            logs.update({f"ema_val_{k}": v for k, v in self.measure(self.model).items()})
            result = logs[f"ema_val_{self.name}"]
            if self.best is None or result > self.best[0]:
                self.best = result, dict(logs)
                if self.save_best is not None:
                    self.save_best(self.model)
