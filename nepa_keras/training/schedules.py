"""Learning rate as a function of the step; `layerwise` has schedules that depend on the depth too."""

import math

import keras
from keras import ops

from nepa_keras.training.groups import check_rate
from nepa_keras.types import Tensor


def scaled_learning_rate(base: float, batch_size: int) -> float:
    """Apply the linear scaling rule: base * batch_size / 256, with the effective batch size."""
    return base * batch_size / 256


@keras.saving.register_keras_serializable(package="nepa_keras")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """peak * k / W for k < W, then peak / 2 * (1 + cos(pi (k - W) / (total - W))), and 0 from `total` on.

    Args:
        peak_learning_rate: rate at step W.
        total_steps: steps of the run.
        warmup_ratio: W = ceil(warmup_ratio * total_steps); ignored if `warmup_steps` is given.
        warmup_steps: W.

    Raises:
        ValueError: no steps, or a warm-up longer than the run.

    Example:
        >>> schedule = WarmupCosine(1e-3, total_steps=100, warmup_steps=10)
        >>> [schedule.at(step) for step in (0, 10, 100)]
        [0.0, 0.001, 0.0]
    """

    def __init__(
        self,
        peak_learning_rate: float,
        total_steps: int,
        warmup_ratio: float = 0.025,
        warmup_steps: int | None = None,
    ):
        check_rate("peak_learning_rate", peak_learning_rate)
        if total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {total_steps}.")
        if warmup_steps is None:
            warmup_steps = math.ceil(warmup_ratio * total_steps)
        if not 0 <= warmup_steps <= total_steps:
            raise ValueError(
                f"A warm-up of {warmup_steps} steps does not fit into {total_steps} steps."
            )
        self.peak_learning_rate = peak_learning_rate
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps

    def at(self, step: int) -> float:
        """Rate at a 0-based step, in double precision."""
        if step < self.warmup_steps:
            return self.peak_learning_rate * step / self.warmup_steps
        decay_steps = max(self.total_steps - self.warmup_steps, 1)
        progress = min((step - self.warmup_steps) / decay_steps, 1.0)
        return self.peak_learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))

    def __call__(self, step: Tensor) -> Tensor:
        # Subtract integers: float32 cannot represent all steps beyond 2^24.
        step = ops.cast(step, "int32")
        warmup = ops.cast(step, "float32") / max(self.warmup_steps, 1)
        done = ops.cast(step - self.warmup_steps, "float32")
        progress = ops.minimum(done / max(self.total_steps - self.warmup_steps, 1), 1.0)
        decay = 0.5 * (1.0 + ops.cos(math.pi * progress))
        return self.peak_learning_rate * ops.where(step < self.warmup_steps, warmup, decay)

    def get_config(self) -> dict:
        return {
            "peak_learning_rate": self.peak_learning_rate,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
        }
