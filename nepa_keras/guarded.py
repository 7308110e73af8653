"""GuardedModel: a Keras model whose train step never lets a non-finite update through.

The step is one story on every backend (`backends.train_step`): forward -> loss -> gradients ->
finite check -> clip -> update -> metrics. The check is on device and before the update, and needs
no host synchronisation.
"""

import functools
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from nepa_keras import backends

_NORMS_KEPT = 1000  # the longest row of a run's log


class _OfAllReplicas:
    """A metric that is given the same values in all replicas of a model, so each has the result."""

    def add_variable(self, *args, **kwargs):
        return super().add_variable(*args, **{**kwargs, "aggregation": "mean"})  # default: sum


@keras.saving.register_keras_serializable(package="nepa_keras")
class FiniteMean(_OfAllReplicas, keras.metrics.Mean):
    """Mean of the finite scalars it is given, so that one bad step does not hide the others."""

    def update_state(self, value, sample_weight=1.0):
        finite = ops.isfinite(value)
        weight = ops.cast(finite, "float32") * ops.cast(sample_weight, "float32")
        super().update_state(ops.where(finite, value, 0.0), sample_weight=weight)


@keras.saving.register_keras_serializable(package="nepa_keras")
class GradientNorm(FiniteMean):
    """As `FiniteMean`, and the latest 1000 values one by one, to be read by the host after many steps."""

    def __init__(self, name="gradient_norm", **kwargs):
        super().__init__(name=name, **kwargs)
        self.steps = self.add_variable((), "zeros", name="steps")
        self.norms = self.add_variable((_NORMS_KEPT,), "zeros", name="norms")

    def update_state(self, value, sample_weight=1.0):
        super().update_state(value, sample_weight)
        place = ops.cast(self.steps, "int32") % _NORMS_KEPT
        kept = ops.convert_to_tensor(self.norms)
        self.norms.assign(ops.where(ops.arange(_NORMS_KEPT) == place, value, kept))
        self.steps.assign_add(1.0)

    def reset_state(self):
        super().reset_state()
        self.steps.assign(0.0)

    def latest(self) -> tuple[int, np.ndarray]:
        """(first, norms): steps since the reset before the norms that are kept, and these in order.

        A norm is NaN where the loss was not finite, and infinite where only the gradient was not.
        """
        # On JAX the metric lives in the train state until the model's `jax_state_sync`.
        steps, norms = (np.array(ops.convert_to_numpy(v)) for v in (self.steps, self.norms))
        steps = int(steps)
        first = max(0, steps - _NORMS_KEPT)
        return first, norms[np.arange(first, steps) % _NORMS_KEPT]


@keras.saving.register_keras_serializable(package="nepa_keras")
class LastValue(_OfAllReplicas, keras.metrics.Metric):
    """The latest value."""

    def __init__(self, name="last_value", **kwargs):
        super().__init__(name=name, **kwargs)
        self.value = self.add_variable((), initializer="zeros", name="value")

    def update_state(self, value, sample_weight=None):
        self.value.assign(value)

    def result(self):
        return ops.copy(self.value)  # on PyTorch a plain read would change with the next reset


@keras.saving.register_keras_serializable(package="nepa_keras")
class SkippedSteps(_OfAllReplicas, keras.metrics.Metric):
    """Counts skipped steps since the last reset, and the longest run of them ever."""

    def __init__(self, name="skipped_steps", **kwargs):
        super().__init__(name=name, **kwargs)
        self.count = self.add_variable((), initializer="zeros", name="count")
        self.streak = self.add_variable((), initializer="zeros", name="streak")
        self.longest = self.add_variable((), initializer="zeros", name="longest")

    def update_state(self, ok, sample_weight=None):
        skipped = 1.0 - ops.cast(ok, "float32")
        self.count.assign_add(skipped)
        self.streak.assign((self.streak + 1.0) * skipped)
        self.longest.assign(ops.maximum(self.longest, self.streak))

    def result(self):
        return ops.copy(self.count)

    def reset_state(self):
        """A run of skipped steps goes on across epochs, so only the count starts anew."""
        self.count.assign(0.0)


class NonFiniteError(RuntimeError):
    """Training met too many non-finite steps in a row."""


class StopOnNonFinite(keras.callbacks.Callback):
    """Stops `fit` once `patience` steps in a row were skipped; looks every `every` batches."""

    def __init__(self, patience: int, every: int = 20):
        super().__init__()
        self.patience = patience
        self.every = every

    def on_train_begin(self, logs=None):
        skipped = self.model.step_metrics["skipped_steps"]
        skipped.streak.assign(0.0)
        skipped.longest.assign(0.0)

    def on_train_batch_end(self, batch, logs=None):
        if (batch + 1) % self.every == 0:
            self._check(batch)

    def on_epoch_end(self, epoch, logs=None):
        self._check(None)

    def _check(self, batch):
        # On JAX the metric lives in the train state until it is synchronised.
        getattr(self.model, "jax_state_sync", lambda: None)()
        longest = int(ops.convert_to_numpy(self.model.step_metrics["skipped_steps"].longest))
        if longest < self.patience:
            return
        where = "" if batch is None else f" (seen at batch {batch} of the epoch)"
        raise NonFiniteError(
            f"{longest} steps in a row had a non-finite loss or gradient{where} and were skipped; "
            "the weights are those of the last good step. Look for non-finite values in the "
            "images, then lower the learning rate or use float32 or bfloat16."
        )


def freeze(model: keras.Model, names: Sequence[str]) -> None:
    """Takes variables out of the training of a built model.

    Args:
        names: of variables or layers, as whole parts of the variables' paths: "block_1" is not "block_10".

    Raises:
        ValueError: no variable has a name.
    """
    for name in names:
        found = [v for v in model.weights if f"/{name.strip('/')}/" in f"/{v.path}/"]
        if not found:
            known = ", ".join(v.path for v in model.weights[:3])
            raise ValueError(f"There is no variable {name!r} to freeze; names are like {known}.")
        for variable in found:
            variable.trainable = False


class GuardedModel(keras.Model):
    """Base of the trainable models.

    Besides the loss and its own metrics, `fit` logs gradient_norm (before clipping),
    learning_rate and skipped_steps (non-finite ones, which change nothing).

    Attributes:
        max_skipped_in_a_row: `fit` stops with `NonFiniteError` after so many; default 20.
    """

    max_skipped_in_a_row = 20

    def compile(self, optimizer="rmsprop", *, jit_compile="auto", **kwargs):
        """As `keras.Model.compile`; `jit_compile="auto"` compiles wherever it pays."""
        if jit_compile == "auto":
            jit_compile = backends.default_jit_compile() and not kwargs.get("run_eagerly")
        if hasattr(optimizer, "apply_guarded"):
            # Our optimizer scales the loss itself, as the guard and the clip need the true norm.
            kwargs["auto_scale_loss"] = False
            if self.dtype_policy.compute_dtype == "float16":
                optimizer.enable_loss_scaling()
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        self.__dict__["_loss_tracker"] = FiniteMean(name="loss")  # in place of Keras' own
        self.step_metrics = {
            "gradient_norm": GradientNorm(name="gradient_norm"),
            "learning_rate": LastValue(name="learning_rate"),
            "skipped_steps": SkippedSteps(name="skipped_steps"),
        }

    def compile_from_config(self, config):
        """Restores `compile` when a saved model is loaded."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    @functools.cached_property  # asked for in each step
    def moving_statistics(self) -> list[keras.Variable]:
        """What a forward pass in training moves; a step that is not good leaves them as they were."""
        norms = (
            layer
            for layer in self._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization)
        )
        return [v for norm in norms for v in (norm.moving_mean, norm.moving_variance)]

    def make_train_function(self, force=False):
        return backends.make_function(self, "train_function", super().make_train_function, force)

    def make_test_function(self, force=False):
        return backends.make_function(self, "test_function", super().make_test_function, force)

    def make_predict_function(self, force=False):
        return backends.make_function(
            self, "predict_function", super().make_predict_function, force
        )

    def train_step(self, *args):
        return backends.train_step(self, *args)

    def test_step(self, *args):
        return backends.test_step(self, super().test_step, *args)

    def record_step(self, x, y, y_pred, sample_weight, loss, gradient_norm, ok, learning_rate):
        """Updates the metrics after a step and returns the logs; part of the backend's story.

        The numbers are those of all replicas; x, y and y_pred what this one has.
        """
        batch_size = ops.shape(keras.tree.flatten(x)[0])[0] * backends.replicas()
        self._loss_tracker.update_state(loss, sample_weight=batch_size)
        logs = self.compute_metrics(x, y, y_pred, sample_weight)
        bad = ops.where(ops.isfinite(loss), float("inf"), float("nan"))
        self.step_metrics["gradient_norm"].update_state(ops.where(ok, gradient_norm, bad))
        self.step_metrics["learning_rate"].update_state(learning_rate)
        self.step_metrics["skipped_steps"].update_state(ok)
        return {**logs, **{name: m.result() for name, m in self.step_metrics.items()}}

    def get_metrics_result(self):
        """The step metrics belong to training only; evaluation reports the rest."""
        result = super().get_metrics_result()
        return {k: v for k, v in result.items() if k not in self.step_metrics}

    def fit(self, x=None, *args, callbacks=None, **kwargs):
        """As `keras.Model.fit`; stops after `max_skipped_in_a_row` non-finite steps.

        Raises:
            NonFiniteError: so many steps in a row had a non-finite loss or gradient.
        """
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks.append(StopOnNonFinite(self.max_skipped_in_a_row))
        else:
            callbacks = keras.tree.flatten(callbacks) if callbacks else []
            callbacks = [StopOnNonFinite(self.max_skipped_in_a_row), *callbacks]
        return super().fit(backends.fit_input(self, x), *args, callbacks=callbacks, **kwargs)
