"""The schedule of dense prediction: linear warm-up, then polynomial to zero, slower towards the input."""

import re

import keras
import numpy as np
from keras import ops

from nepa_keras.training.layerwise import Layerwise, Place


@keras.saving.register_keras_serializable(package="nepa_keras")
class LayerwiseWarmupPoly(Layerwise, keras.optimizers.schedules.LearningRateSchedule):
    """BEiT's layer decay over a linear warm-up and a polynomial (SPEC section 6).

        rate = peak * decay^(L + 1 - id) * (s + (1 - s) k / W)                    for k < W
        rate = peak * decay^(L + 1 - id) * (1 - (k - W) / (total - W))^power      then

    with id 0 for the embedding, i + 1 for block i, and L + 1 for everything else.

    Args:
        peak_learning_rate: of the heads.
        total_steps: of the run.
        num_layers: L, blocks of the backbone.
        layer_decay: from one id to the next.
        warmup_steps: W.
        warmup_start: s, share of the rate at the first step.
        power: of the polynomial.

    Raises:
        ValueError: no steps, a warm-up longer than the run, or a decay that is not positive.
    """

    def __init__(
        self,
        peak_learning_rate: float,
        total_steps: int,
        num_layers: int,
        layer_decay: float = 1.0,
        warmup_steps: int = 1500,
        warmup_start: float = 1e-6,
        power: float = 1.0,
    ):
        if total_steps < 1 or not 0 <= warmup_steps <= total_steps:
            raise ValueError(f"A warm-up of {warmup_steps} steps does not fit into {total_steps}.")
        if layer_decay <= 0:
            raise ValueError(f"layer_decay={layer_decay} must be above 0.")
        self.peak_learning_rate = peak_learning_rate
        self.total_steps = total_steps
        self.num_layers = num_layers
        self.layer_decay = layer_decay
        self.warmup_steps = warmup_steps
        self.warmup_start = warmup_start
        self.power = power

    def place(self, path: str) -> Place:
        """Where a variable is, by its path."""
        if "patch_embedding/" in path:
            return Place("embedding", self.num_layers + 1)
        if block := re.search(r"(?:^|/)block_(\d+)/", path):
            return Place(f"block {int(block[1])}", self.num_layers - int(block[1]))
        return Place("heads", 0, head=True)

    def warmup_of(self, place: Place) -> int:
        """Steps of the warm-up, the same for all places."""
        return self.warmup_steps

    def rate_at(self, step: int, place: Place) -> float:
        """The rate of a place at a 0-based step, in double precision."""
        peak = self.peak_learning_rate * self.layer_decay**place.exponent
        if step < self.warmup_steps:
            return peak * (self.warmup_start + (1 - self.warmup_start) * step / self.warmup_steps)
        done = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
        return peak * (1.0 - min(done, 1.0)) ** self.power

    def __call__(self, step):
        """The rate of the heads."""
        step = ops.cast(step, "int32")
        rising = ops.cast(step, "float32") / max(self.warmup_steps, 1)
        rising = self.warmup_start + (1.0 - self.warmup_start) * rising
        left = max(self.total_steps - self.warmup_steps, 1)
        done = ops.clip(ops.cast(step - self.warmup_steps, "float32") / left, 0.0, 1.0)
        falling = ops.power(1.0 - done, self.power)
        return self.peak_learning_rate * ops.where(step < self.warmup_steps, rising, falling)

    def rates(self, step, places: list[Place]):
        """The rates of places at a step, float32 (len(places),), on the device."""
        factors = [self.layer_decay**place.exponent for place in places]
        return self(step) * ops.convert_to_tensor(np.asarray(factors, "float32"))

    def get_config(self):
        names = (
            "peak_learning_rate total_steps num_layers layer_decay warmup_steps warmup_start power"
        )
        return {name: getattr(self, name) for name in names.split()}
