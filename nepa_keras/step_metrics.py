"""Metrics of a training step: loss, gradient norm, learning rate, skipped steps."""

import keras
import numpy as np
from keras import ops

from nepa_keras import backends
from nepa_keras.types import Tensor

_NORMS_KEPT = 1000  # the longest log interval of a run


class _OfAllReplicas(keras.metrics.Metric):
    """A metric that gets the same values in all replicas, so that each replica has the result.

    Always float32, whatever Keras' floatx: a count in bfloat16 stops at 256.
    """

    def __init__(self, *args, dtype: str | None = None, **kwargs):
        super().__init__(*args, dtype=dtype or "float32", **kwargs)

    def add_variable(self, *args, **kwargs):
        # Keras' default is a sum over replicas, in floatx.
        fixed = {"aggregation": "mean", "dtype": self.dtype}
        return super().add_variable(*args, **{**kwargs, **fixed})


class MeanOrNaN(_OfAllReplicas, keras.metrics.Mean):
    """Mean of scalars; NaN if there are none (Keras' own gives 0, which looks like a loss)."""

    def result(self) -> Tensor:
        return ops.where(self.count > 0, super().result(), float("nan"))


@keras.saving.register_keras_serializable(package="nepa_keras")
class FiniteMean(MeanOrNaN):
    """Mean of the finite scalars among those given, so that one bad step does not hide the others."""

    def update_state(self, value: Tensor, sample_weight: Tensor = 1.0) -> None:
        finite = ops.isfinite(value)
        weight = ops.cast(finite, "float32") * ops.cast(sample_weight, "float32")
        super().update_state(ops.where(finite, value, 0.0), sample_weight=weight)


@keras.saving.register_keras_serializable(package="nepa_keras")
class GradientNorm(FiniteMean):
    """A `FiniteMean` that also keeps the latest 1000 values, for the host to read after many steps."""

    def __init__(self, name="gradient_norm", **kwargs):
        super().__init__(name=name, **kwargs)
        self.steps = self.add_variable((), "zeros", name="steps")
        self.norms = self.add_variable((_NORMS_KEPT,), "zeros", name="norms")

    def update_state(self, value: Tensor, sample_weight: Tensor = 1.0) -> None:
        super().update_state(value, sample_weight)
        place = ops.cast(self.steps, "int32") % _NORMS_KEPT
        kept = ops.convert_to_tensor(self.norms)
        self.norms.assign(ops.where(ops.arange(_NORMS_KEPT, dtype="int32") == place, value, kept))
        self.steps.assign_add(1.0)

    def reset_state(self) -> None:
        super().reset_state()
        self.steps.assign(0.0)

    def latest(self) -> tuple[int, np.ndarray]:
        """Return (first, norms): the number of steps before the kept values, and these in order.

        A value is NaN if the loss was not finite, infinite if only the gradient was not.
        """
        # On JAX the value is in the train state until `backends.sync`.
        steps = int(backends.local_value(self.steps))
        norms = backends.local_value(self.norms)
        first = max(0, steps - _NORMS_KEPT)
        return first, norms[np.arange(first, steps) % _NORMS_KEPT]


@keras.saving.register_keras_serializable(package="nepa_keras")
class LastValue(_OfAllReplicas, keras.metrics.Metric):
    """The latest value given."""

    def __init__(self, name="last_value", **kwargs):
        super().__init__(name=name, **kwargs)
        self.value = self.add_variable((), initializer="zeros", name="value")

    def update_state(self, value: Tensor, sample_weight: Tensor = None) -> None:
        self.value.assign(value)

    def result(self) -> Tensor:
        return ops.copy(self.value)  # on PyTorch an uncopied value would change at the next reset


@keras.saving.register_keras_serializable(package="nepa_keras")
class SkippedSteps(_OfAllReplicas, keras.metrics.Metric):
    """Number of skipped steps since the last reset, and the longest sequence of them ever."""

    def __init__(self, name="skipped_steps", **kwargs):
        super().__init__(name=name, **kwargs)
        self.count = self.add_variable((), initializer="zeros", name="count")
        self.streak = self.add_variable((), initializer="zeros", name="streak")
        self.longest = self.add_variable((), initializer="zeros", name="longest")

    def update_state(self, ok: Tensor, sample_weight: Tensor = None) -> None:
        skipped = 1.0 - ops.cast(ok, "float32")
        self.count.assign_add(skipped)
        self.streak.assign((self.streak + 1.0) * skipped)
        self.longest.assign(ops.maximum(self.longest, self.streak))

    def result(self) -> Tensor:
        return ops.copy(self.count)

    def reset_state(self) -> None:
        """Reset the count only: a sequence of skipped steps may cross epochs."""
        self.count.assign(0.0)
