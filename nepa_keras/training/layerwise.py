"""Schedules with a learning rate for each layer group, usually smaller towards the input."""

import math

import keras
import numpy as np
from keras import ops

from nepa_keras.training.groups import LayerGroup, Layerwise, check_rate, layer_id
from nepa_keras.training.schedules import WarmupCosine
from nepa_keras.types import Tensor


def _name_of(layer: int) -> str:
    return f"block {layer - 1}" if layer else "embedding"


_TOP = LayerGroup("last block", 0)


@keras.saving.register_keras_serializable(package="nepa_keras")
class LayerwiseWarmupCosine(Layerwise, WarmupCosine):
    """`WarmupCosine` with layer decay: each block has its own rate and warm-up.

        rate of a variable = base * f * (warm-up and cosine of its group),   f = layer_decay^exponent

    The base is the head's rate for the classifier and the final norm, else the peak rate. A group's warm-up
    has W - round(W min(f, 1)) steps, at least 1: the head is warm at once, the deepest block after almost W
    steps. Called with a step, the schedule returns the rate of the last block.

    Args:
        peak_learning_rate, total_steps, warmup_ratio, warmup_steps: see `WarmupCosine`.
        num_layers: number of blocks L.
        layer_decay: factor of the rate from each block to the one below.
        head_learning_rate: default the peak rate.
        own_warmup: False gives all groups the same warm-up W.
        final_layer_decay: value that `layer_decay` reaches at the end of the run; needs `own_warmup=False`.
            None keeps it constant.
        layer_decay_course: "cosine" changes it by a half cosine (the released scripts' "llrd_cosine"),
            "linear" linearly (the paper, Table 5: from 0.35 or 0.60 to 1).

    Raises:
        ValueError: as `WarmupCosine`; a layer decay that is not positive; `final_layer_decay` together with
            `own_warmup`; an unknown course, or a linear one without `final_layer_decay`.

    Example:
        >>> schedule = LayerwiseWarmupCosine(1e-3, total_steps=100, num_layers=4, layer_decay=0.65)
        >>> optimizer = nepa_keras.training.adamw(schedule)
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
        layer_decay_course: str = "cosine",
    ):
        super().__init__(peak_learning_rate, total_steps, warmup_ratio, warmup_steps)
        if head_learning_rate is not None:
            check_rate("head_learning_rate", head_learning_rate)
        if min(layer_decay, 1.0 if final_layer_decay is None else final_layer_decay) <= 0:
            raise ValueError(
                f"layer_decay={layer_decay} and final_layer_decay={final_layer_decay} must be above 0."
            )
        if own_warmup and final_layer_decay is not None:
            raise ValueError(
                "final_layer_decay needs own_warmup=False: each block's own warm-up assumes a constant decay."
            )
        if layer_decay_course not in ("cosine", "linear"):
            raise ValueError(
                f'layer_decay_course must be "cosine" or "linear", got {layer_decay_course!r}.'
            )
        if layer_decay_course == "linear" and final_layer_decay is None:
            raise ValueError(
                "A linear layer_decay_course needs a final_layer_decay to end at, such as 1.0."
            )
        self.num_layers = num_layers
        self.layer_decay = layer_decay
        self.head_learning_rate = head_learning_rate
        self.own_warmup = own_warmup
        self.final_layer_decay = final_layer_decay
        self.layer_decay_course = layer_decay_course

    def at(self, step: int) -> float:
        """Rate of the last block at a 0-based step, in double precision."""
        return self.rate_at(step, _TOP)

    def __call__(self, step: Tensor) -> Tensor:
        return self.rates(step, [_TOP])[0]

    def layer_group(self, path: str) -> LayerGroup:
        """Group of a variable, from its path."""
        layer = layer_id(path, self.num_layers)
        if layer <= self.num_layers:
            return LayerGroup(_name_of(layer), self.num_layers - layer)
        return LayerGroup("fc_norm", 0) if "fc_norm/" in path else LayerGroup("head", 0, head=True)

    def base(self, group: LayerGroup) -> float:
        """Rate of a group before layer decay and schedule."""
        if group.head and self.head_learning_rate is not None:
            return self.head_learning_rate
        return self.peak_learning_rate

    def warmup_of(self, group: LayerGroup) -> int:
        """Warm-up steps of a group; halves are rounded to even."""
        if not self.own_warmup or self.warmup_steps == 0:
            return self.warmup_steps
        factor = min(self.layer_decay**group.exponent, 1.0)
        return min(max(self.warmup_steps - round(self.warmup_steps * factor), 1), self.total_steps)

    def layer_decay_at(self, step: int) -> float:
        """Layer decay at a 0-based step, in double precision; the final one at `total_steps`."""
        if self.final_layer_decay is None:
            return self.layer_decay
        done = min(step / self.total_steps, 1.0)
        if self.layer_decay_course == "cosine":
            done = 0.5 * (1.0 - math.cos(math.pi * done))
        return self.layer_decay + (self.final_layer_decay - self.layer_decay) * done

    def rate_at(self, step: int, group: LayerGroup) -> float:
        """Rate of a layer group at a 0-based step, in double precision."""
        decay = self.layer_decay_at(step)
        own = WarmupCosine(self.base(group), self.total_steps, warmup_steps=self.warmup_of(group))
        return decay**group.exponent * own.at(step)

    def rates(self, step: Tensor, groups: list[LayerGroup]) -> Tensor:
        """Rates of layer groups at a step, float32 (len(groups),), on the device."""

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
        if self.layer_decay_course == "cosine":
            done = 0.5 * (1.0 - ops.cos(math.pi * done))
        decay = self.layer_decay + (self.final_layer_decay - self.layer_decay) * done
        return course * constant(bases) * ops.power(decay, constant(exponents))

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "layer_decay": self.layer_decay,
            "head_learning_rate": self.head_learning_rate,
            "own_warmup": self.own_warmup,
            "final_layer_decay": self.final_layer_decay,
            "layer_decay_course": self.layer_decay_course,
        }


@keras.saving.register_keras_serializable(package="nepa_keras")
class LayerwiseWarmupPoly(Layerwise, keras.optimizers.schedules.LearningRateSchedule):
    """BEiT's layer decay with linear warm-up and polynomial decay, for dense prediction.

        rate = peak * decay^(L + 1 - id) * (s + (1 - s) k / W)                    for k < W
        rate = peak * decay^(L + 1 - id) * (1 - (k - W) / (total - W))^power      otherwise

    The layer id is 0 for the embedding, i + 1 for block i, and L + 1 for everything else.

    Args:
        peak_learning_rate: rate of the heads.
        total_steps: steps of the run.
        num_layers: number of blocks L.
        layer_decay: factor of the rate from each id to the one below.
        warmup_steps: W.
        warmup_start: s, fraction of the rate at the first step.
        power: exponent of the polynomial.

    Raises:
        ValueError: no steps, a warm-up longer than the run, or a decay that is not positive.

    Example:
        >>> schedule = LayerwiseWarmupPoly(1e-4, total_steps=100, num_layers=4, warmup_steps=10)
        >>> optimizer = nepa_keras.training.adamw(schedule)
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
            raise ValueError(
                f"A warm-up of {warmup_steps} steps does not fit into {total_steps} steps."
            )
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
        """Group of a variable, from its path."""
        layer = layer_id(path, self.num_layers)
        if layer <= self.num_layers:
            return LayerGroup(_name_of(layer), self.num_layers + 1 - layer)
        return LayerGroup("heads", 0, head=True)

    def warmup_of(self, group: LayerGroup) -> int:
        """Warm-up steps, the same for all groups."""
        return self.warmup_steps

    def rate_at(self, step: int, group: LayerGroup) -> float:
        """Rate of a layer group at a 0-based step, in double precision."""
        peak = self.peak_learning_rate * self.layer_decay**group.exponent
        if step < self.warmup_steps:
            return peak * (self.warmup_start + (1 - self.warmup_start) * step / self.warmup_steps)
        done = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
        return peak * (1.0 - min(done, 1.0)) ** self.power

    def __call__(self, step: Tensor) -> Tensor:
        """Rate of the heads."""
        step = ops.cast(step, "int32")
        rising = ops.cast(step, "float32") / max(self.warmup_steps, 1)
        rising = self.warmup_start + (1.0 - self.warmup_start) * rising
        left = max(self.total_steps - self.warmup_steps, 1)
        done = ops.clip(ops.cast(step - self.warmup_steps, "float32") / left, 0.0, 1.0)
        falling = ops.power(1.0 - done, self.power)
        return self.peak_learning_rate * ops.where(step < self.warmup_steps, rising, falling)

    def rates(self, step: Tensor, groups: list[LayerGroup]) -> Tensor:
        """Rates of layer groups at a step, float32 (len(groups),), on the device."""
        factors = [self.layer_decay**group.exponent for group in groups]
        return self(step) * ops.convert_to_tensor(np.asarray(factors, "float32"))

    def get_config(self) -> dict:
        names = (
            "peak_learning_rate total_steps num_layers layer_decay warmup_steps warmup_start power"
        )
        return {name: getattr(self, name) for name in names.split()}
