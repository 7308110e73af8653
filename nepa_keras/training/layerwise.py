"""Fine-tuning rates: smaller towards the input, and there with a longer warm-up (SPEC section 5)."""

import math
import re
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from nepa_keras.training.schedules import WarmupCosine


@dataclass(frozen=True)
class Place:
    """Where a variable is.

    Attributes:
        name: for people.
        exponent: power of the layer decay that its rate is multiplied by.
        head: whether it has the head's rate in place of the peak rate.
    """

    name: str
    exponent: int
    head: bool = False


def place_of(path: str, num_layers: int) -> Place:
    """The place of a variable of a model with a `NepaBackbone` of so many blocks.

    The classifier and the backbone's final norm have the head's rate, the norm between them the peak rate.
    """
    if "patch_embedding/" in path:
        return Place("embedding", num_layers)
    if block := re.search(r"(?:^|/)block_(\d+)/", path):
        return Place(f"block {int(block[1])}", num_layers - 1 - int(block[1]))
    if "fc_norm/" in path:
        return Place("fc_norm", 0)
    return Place("head", 0, head=True)


class Layerwise:
    """What the optimizer asks a schedule with a rate for each place of the network.

    `place(path)`, `warmup_of(place)`, `rate_at(step, place)`, and `rates(step, places)` on the device.
    """


_TOP = Place("last block", 0)


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

    def __call__(self, step):
        return self.rates(step, [_TOP])[0]

    def place(self, path: str) -> Place:
        """Where a variable is, by its path."""
        return place_of(path, self.num_layers)

    def base(self, place: Place) -> float:
        """The rate before layer decay and schedule."""
        if place.head and self.head_learning_rate is not None:
            return self.head_learning_rate
        return self.peak_learning_rate

    def warmup_of(self, place: Place) -> int:
        """Steps of a place's own warm-up; rounds half to even."""
        if not self.own_warmup or self.warmup_steps == 0:
            return self.warmup_steps
        factor = min(self.layer_decay**place.exponent, 1.0)
        return min(max(self.warmup_steps - round(self.warmup_steps * factor), 1), self.total_steps)

    def rate_at(self, step: int, place: Place) -> float:
        """The rate of a place at a 0-based step, in double precision."""
        decay = self.layer_decay
        if self.final_layer_decay is not None:
            moved = 0.5 * (1.0 - math.cos(math.pi * min(step / self.total_steps, 1.0)))
            decay += (self.final_layer_decay - decay) * moved
        own = WarmupCosine(self.base(place), self.total_steps, warmup_steps=self.warmup_of(place))
        return decay**place.exponent * own.at(step)

    def rates(self, step, places: list[Place]):
        """The rates of places at a step, float32 (len(places),), on the device."""

        def constant(values, dtype="float32"):
            return ops.convert_to_tensor(np.asarray(values, dtype))

        own = np.array([self.warmup_of(place) for place in places])
        bases = np.array([self.base(place) for place in places])
        exponents = np.array([place.exponent for place in places], "float64")
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

    def get_config(self):
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "layer_decay": self.layer_decay,
            "head_learning_rate": self.head_learning_rate,
            "own_warmup": self.own_warmup,
            "final_layer_decay": self.final_layer_decay,
        }
