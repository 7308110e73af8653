"""Operations on a residual branch: LayerScale, then DropPath."""

import keras
from keras import ops

from nepa_keras import backends
from nepa_keras.types import Shape, Tensor


@keras.saving.register_keras_serializable(package="nepa_keras")
class LayerScale(keras.layers.Layer):
    """Multiply each channel by a learned factor (Touvron et al., 2021, arXiv 2103.17239).

    Args:
        initial_value: initial value of all factors; the paper uses 1e-5.

    Example:
        >>> y = LayerScale(initial_value=0.5)(np.ones((1, 2)))
        >>> keras.ops.convert_to_numpy(y).tolist()
        [[0.5, 0.5]]
    """

    def __init__(self, initial_value: float = 1e-5, **kwargs):
        super().__init__(**kwargs)
        self.initial_value = initial_value

    def build(self, input_shape: Shape) -> None:
        self.scale = self.add_weight(
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.initial_value),
            name="scale",
            autocast=False,  # a recomputed block runs outside the autocast scope and must not differ
        )

    def call(self, x: Tensor) -> Tensor:
        return x * ops.cast(self.scale, x.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "initial_value": self.initial_value}


def scale_samples(x: Tensor, factors: Tensor) -> Tensor:
    """Multiply the samples of x (B, ...) by factors (B,)."""
    return x * ops.cast(ops.reshape(factors, (-1,) + (1,) * (len(x.shape) - 1)), x.dtype)


@keras.saving.register_keras_serializable(package="nepa_keras")
class DropPath(keras.layers.Layer):
    """Stochastic depth: in training, set whole samples of a branch to zero and divide the others by 1 - rate.

    Args:
        rate: probability in [0, 1) that a sample loses the branch.
        seed: seed of the random draws.

    Example:
        >>> y = DropPath(rate=0.5, seed=0)(np.ones((8, 2)), training=True)
        >>> sorted(set(keras.ops.convert_to_numpy(y).ravel().tolist()))
        [0.0, 2.0]
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
        """Draw the kept samples: (B,) float32, 1 for kept, 0 for dropped."""
        shape = (batch_size * backends.replicas(),)
        draw = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
        return ops.cast(backends.local_rows(draw) >= self.rate, "float32")

    def factors(self, batch_size: int | Tensor) -> Tensor:
        """Draw the factors of the samples in training: (B,) float32, 0 or 1 / (1 - rate)."""
        return self.keep_mask(batch_size) / (1.0 - self.rate)

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        if not training or self.rate == 0.0:
            return x
        return scale_samples(x, self.factors(ops.shape(x)[0]))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
