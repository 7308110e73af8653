"""What happens to a branch before it joins the residual stream: LayerScale, then DropPath."""

import keras
from keras import ops

from nepa_keras import backends
from nepa_keras.types import Shape, Tensor


@keras.saving.register_keras_serializable(package="nepa_keras")
class LayerScale(keras.layers.Layer):
    """x * lambda, one learned factor per channel (Touvron et al., 2021).

    Args:
        initial_value: of every factor (SPEC: 1e-5).
    """

    def __init__(self, initial_value: float = 1e-5, **kwargs):
        super().__init__(**kwargs)
        self.initial_value = initial_value

    def build(self, input_shape: Shape) -> None:
        self.scale = self.add_weight(
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.initial_value),
            name="scale",
            autocast=False,  # or a recomputed block, outside the model's scope, gives other numbers
        )

    def call(self, x: Tensor) -> Tensor:
        return x * ops.cast(self.scale, x.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "initial_value": self.initial_value}


def scale_samples(x: Tensor, factors: Tensor) -> Tensor:
    """x (B, ...) times factors (B,)."""
    return x * ops.cast(ops.reshape(factors, (-1,) + (1,) * (len(x.shape) - 1)), x.dtype)


@keras.saving.register_keras_serializable(package="nepa_keras")
class DropPath(keras.layers.Layer):
    """In training, zeroes whole samples of a branch and divides the survivors by 1 - rate.

    Args:
        rate: probability that a sample loses the branch, in [0, 1).
        seed: of the draws.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"The drop path rate must be in [0, 1), got {rate}.")
        self.rate = rate
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def keep_mask(self, batch_size: int | Tensor) -> Tensor:
        """1 for a kept sample, 0 for a dropped one: (B,) float32."""
        shape = (batch_size * backends.replicas(),)
        draw = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
        return ops.cast(backends.local_rows(draw) >= self.rate, "float32")

    def factors(self, batch_size: int | Tensor) -> Tensor:
        """What the samples are multiplied by in training: 0, or 1 / (1 - rate); (B,) float32."""
        return self.keep_mask(batch_size) / (1.0 - self.rate)

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        if not training or self.rate == 0.0:
            return x
        return scale_samples(x, self.factors(ops.shape(x)[0]))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
