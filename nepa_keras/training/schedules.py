"""Learning rates as a function of the step, and of the depth in the network.

Layer-wise schedules give each layer group a rate of its own, smaller towards the input.
"""

import math

import keras
import numpy as np
from keras import ops

from nepa_keras.training.groups import LayerGroup, Layerwise, check_rate, layer_id
from nepa_keras.types import Tensor


def scaled_learning_rate(base: float, batch_size: int) -> float:
    """The linear scaling rule: base * batch_size / 256, with the effective batch size."""
    return base * batch_size / 256


@keras.saving.register_keras_serializable(package="nepa_keras")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """peak * k / W for k < W, then peak / 2 * (1 + cos(pi (k - W) / (total - W))), 0 from total on.

    Args:
        peak_learning_rate: reached at step W.
        total_steps: of the run.
        warmup_ratio: W = ceil(warmup_ratio * total_steps); ignored if `warmup_steps` is given.
        warmup_steps: W.

    Raises:
        ValueError: no steps, or a warm-up longer than the run.
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
            raise ValueError(f"A warm-up of {warmup_steps} steps does not fit into {total_steps}.")
        self.peak_learning_rate = peak_learning_rate
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps

    def at(self, step: int) -> float:
        """The rate of a 0-based step, in double precision."""
        if step < self.warmup_steps:
            return self.peak_learning_rate * step / self.warmup_steps
        decay_steps = max(self.total_steps - self.warmup_steps, 1)
        progress = min((step - self.warmup_steps) / decay_steps, 1.0)
        return self.peak_learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))

    def __call__(self, step: Tensor) -> Tensor:
        # Subtract as integers: float32 would lose the step beyond 2^24.
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


def _name_of(layer: int) -> str:
    return f"block {layer - 1}" if layer else "embedding"


_TOP = LayerGroup("last block", 0)


@keras.saving.register_keras_serializable(package="nepa_keras")
class LayerwiseWarmupCosine(Layerwise, WarmupCosine):
    """`WarmupCosine` for each block, at a rate and with a warm-up of its own.

        rate of a variable = base * f * (its warm-up and cosine),   f = layer_decay^exponent

    The base is the head's rate for the classifier and the final norm, else the peak rate. The warm-up has
    w = W - round(W min(f, 1)) steps, at least 1: the head warms up at once, the deepest block over nearly W.
    Called with a step, it gives the rate of the last block.

    Args:
        peak_learning_rate, total_steps, warmup_ratio, warmup_steps: as `WarmupCosine`.
        num_layers: blocks of the backbone.
        layer_decay: of the rate from a block to the one below.
        head_learning_rate: default the peak rate.
        own_warmup: False gives all the same W ("llrd_cosine").
        final_layer_decay: `layer_decay` moves to it along a half cosine over the run; for `own_warmup=False`.

    Raises:
        ValueError: as `WarmupCosine`, or `final_layer_decay` together with `own_warmup`.
    """

    def __init__(
        self,
        peak_learning_rate: float,
        total_steps: int,
        num_layers: int,
        layer_decay: float,
        head_learning_rate: float | None = None,
        warmup_ratio: float = 0.2,
        warmup_steps: int | None = None,
        own_warmup: bool = True,
        final_layer_decay: float | None = None,
    ):
        super().__init__(peak_learning_rate, total_steps, warmup_ratio, warmup_steps)
        if head_learning_rate is not None:
            check_rate("head_learning_rate", head_learning_rate)
        if min(layer_decay, final_layer_decay or 1.0) <= 0:
            raise ValueError(
                f"layer_decay={layer_decay} and final_layer_decay={final_layer_decay} must be above 0."
            )
        if own_warmup and final_layer_decay is not None:
            raise ValueError("A final_layer_decay is for own_warmup=False, as in the recipe.")
        self.num_layers = num_layers
        self.layer_decay = layer_decay
        self.head_learning_rate = head_learning_rate
        self.own_warmup = own_warmup
        self.final_layer_decay = final_layer_decay

    def at(self, step: int) -> float:
        """The rate of the last block at a 0-based step, in double precision."""
        return self.rate_at(step, _TOP)

    def __call__(self, step: Tensor) -> Tensor:
        return self.rates(step, [_TOP])[0]

    def layer_group(self, path: str) -> LayerGroup:
        """The group of a variable, by its path."""
        layer = layer_id(path, self.num_layers)
        if layer <= self.num_layers:
            return LayerGroup(_name_of(layer), self.num_layers - layer)
        return LayerGroup("fc_norm", 0) if "fc_norm/" in path else LayerGroup("head", 0, head=True)

    def base(self, group: LayerGroup) -> float:
        """The rate before layer decay and schedule."""
        if group.head and self.head_learning_rate is not None:
            return self.head_learning_rate
        return self.peak_learning_rate

    def warmup_of(self, group: LayerGroup) -> int:
        """Steps of a group's own warm-up; rounds half to even."""
        if not self.own_warmup or self.warmup_steps == 0:
            return self.warmup_steps
        factor = min(self.layer_decay**group.exponent, 1.0)
        return min(max(self.warmup_steps - round(self.warmup_steps * factor), 1), self.total_steps)

    def rate_at(self, step: int, group: LayerGroup) -> float:
        """The rate of a layer group at a 0-based step, in double precision."""
        decay = self.layer_decay
        if self.final_layer_decay is not None:
            moved = 0.5 * (1.0 - math.cos(math.pi * min(step / self.total_steps, 1.0)))
            decay += (self.final_layer_decay - decay) * moved
        own = WarmupCosine(self.base(group), self.total_steps, warmup_steps=self.warmup_of(group))
        return decay**group.exponent * own.at(step)

    def rates(self, step: Tensor, groups: list[LayerGroup]) -> Tensor:
        """The rates of layer groups at a step, float32 (len(groups),), on the device."""

        def constant(values, dtype="float32"):
            return ops.convert_to_tensor(np.asarray(values, dtype))

        own = np.array([self.warmup_of(group) for group in groups])
        bases = np.array([self.base(group) for group in groups])
        exponents = np.array([group.exponent for group in groups], "float64")
        step, warmups = ops.cast(step, "int32"), constant(own, "int32")
        rising = ops.cast(step, "float32") / constant(np.maximum(own, 1))
        left = constant(np.maximum(self.total_steps - own, 1))
        progress = ops.clip(ops.cast(step - warmups, "float32") / left, 0.0, 1.0)
        falling = 0.5 * (1.0 + ops.cos(math.pi * progress))
        course = ops.where(step < warmups, rising, falling)
        if self.final_layer_decay is None:
            return course * constant(bases * self.layer_decay**exponents)
        done = ops.minimum(ops.cast(step, "float32") / self.total_steps, 1.0)
        moved = 0.5 * (1.0 - ops.cos(math.pi * done))
        decay = self.layer_decay + (self.final_layer_decay - self.layer_decay) * moved
        return course * constant(bases) * ops.power(decay, constant(exponents))

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "layer_decay": self.layer_decay,
            "head_learning_rate": self.head_learning_rate,
            "own_warmup": self.own_warmup,
            "final_layer_decay": self.final_layer_decay,
        }


@keras.saving.register_keras_serializable(package="nepa_keras")
class LayerwiseWarmupPoly(Layerwise, keras.optimizers.schedules.LearningRateSchedule):
    """BEiT's layer decay over a linear warm-up and a polynomial, for dense prediction.

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
        check_rate("peak_learning_rate", peak_learning_rate)
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

    def layer_group(self, path: str) -> LayerGroup:
        """The group of a variable, by its path."""
        layer = layer_id(path, self.num_layers)
        if layer <= self.num_layers:
            return LayerGroup(_name_of(layer), self.num_layers + 1 - layer)
        return LayerGroup("heads", 0, head=True)

    def warmup_of(self, group: LayerGroup) -> int:
        """Steps of the warm-up, the same for all groups."""
        return self.warmup_steps

    def rate_at(self, step: int, group: LayerGroup) -> float:
        """The rate of a layer group at a 0-based step, in double precision."""
        peak = self.peak_learning_rate * self.layer_decay**group.exponent
        if step < self.warmup_steps:
            return peak * (self.warmup_start + (1 - self.warmup_start) * step / self.warmup_steps)
        done = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
        return peak * (1.0 - min(done, 1.0)) ** self.power

    def __call__(self, step: Tensor) -> Tensor:
        """The rate of the heads."""
        step = ops.cast(step, "int32")
        rising = ops.cast(step, "float32") / max(self.warmup_steps, 1)
        rising = self.warmup_start + (1.0 - self.warmup_start) * rising
        left = max(self.total_steps - self.warmup_steps, 1)
        done = ops.clip(ops.cast(step - self.warmup_steps, "float32") / left, 0.0, 1.0)
        falling = ops.power(1.0 - done, self.power)
        return self.peak_learning_rate * ops.where(step < self.warmup_steps, rising, falling)

    def rates(self, step: Tensor, groups: list[LayerGroup]) -> Tensor:
        """The rates of layer groups at a step, float32 (len(groups),), on the device."""
        factors = [self.layer_decay**group.exponent for group in groups]
        return self(step) * ops.convert_to_tensor(np.asarray(factors, "float32"))

    def get_config(self) -> dict:
        names = (
            "peak_learning_rate total_steps num_layers layer_decay warmup_steps warmup_start power"
        )
        return {name: getattr(self, name) for name in names.split()}
