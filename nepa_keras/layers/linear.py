"""Weight initializer and dense layer of the Transformer."""

import math
import random
from collections.abc import MutableMapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from nepa_keras import backends
from nepa_keras.types import Shape, Tensor


@keras.saving.register_keras_serializable(package="nepa_keras")
class NormalInitializer(keras.initializers.Initializer):
    """Normal(0, stddev) drawn by NumPy, so that a seed gives the same weights on every backend.

    The authors' code truncates at +-2 *absolute*, 100 standard deviations; no draw gets there, so nothing is
    truncated here. Without a seed, one is drawn from Python's generator, which
    `keras.utils.set_random_seed` seeds.

    Args:
        stddev: standard deviation.
        seed: integer seed, or None.

    Example:
        >>> tuple(NormalInitializer(stddev=0.02, seed=0)((3, 4)).shape)
        (3, 4)
    """

    def __init__(self, stddev: float = 0.02, seed: int | None = None):
        self.stddev = stddev
        self.seed = seed

    def __call__(self, shape: Shape, dtype: str | None = None) -> Tensor:
        seed = random.getrandbits(32) if self.seed is None else self.seed
        values = np.random.default_rng(seed).standard_normal(shape, dtype="float32")
        values *= self.stddev  # in place, to save memory for large models
        return ops.convert_to_tensor(values, dtype=dtype)

    def get_config(self) -> dict:
        return {"stddev": self.stddev, "seed": self.seed}


@keras.saving.register_keras_serializable(package="nepa_keras")
class Linear(keras.layers.Dense):
    """`x @ kernel + bias` over the last axis: (..., D) -> (..., units).

    A `keras.layers.Dense` that uses the backend's fused kernel and supports Keras' `quantize` and
    `enable_lora`. `call` casts its input, so it may be run directly.

    Args:
        units: width of the output.
        use_bias: add a bias.
        kernel_initializer: default normal with standard deviation 0.02.
        **kwargs: other arguments of `keras.layers.Dense`, such as `lora_rank`.

    Call arguments:
        x: (..., D).
        scale: factors (units,) of the output, which are multiplied into the kernel, or None. Their gradient
            then needs no output: sum_d W dW. Only for a linear activation.

    Example:
        >>> tuple(Linear(8)(np.ones((2, 5, 4))).shape)
        (2, 5, 8)
    """

    def __init__(
        self,
        units: int,
        use_bias: bool = True,
        kernel_initializer: str | keras.initializers.Initializer | None = None,
        **kwargs,
    ):
        kernel_initializer = kernel_initializer or NormalInitializer()
        super().__init__(units, use_bias=use_bias, kernel_initializer=kernel_initializer, **kwargs)

    def call(self, x: Tensor, training: bool | None = None, scale: Tensor | None = None) -> Tensor:
        if self.quantization_mode is not None:
            # `__call__` takes Keras' quantized path and does not come back here.
            y = ops.cast(self(x, training=training), self.compute_dtype)
            return y if scale is None else y * ops.cast(scale, y.dtype)
        # Not `self.kernel`, which merges the adapters at the cost of a full trained kernel.
        y = self._product(x, self._kernel, self.bias, scale)
        if self.lora_enabled:
            inner = self._product(x, self.lora_kernel_a)  # (..., rank)
            y = y + self._product(inner, self.lora_kernel_b, scale=scale) * (
                self.lora_alpha / self.lora_rank
            )
        return self.activation(y)

    @property
    def is_plain(self) -> bool:
        """True if the kernel alone gives the output: not quantized and without adapters."""
        return self.quantization_mode is None and not self.lora_enabled

    def parts(self, x: Tensor, shape: Sequence[int]) -> list[Tensor]:
        """Compute the output in several products, one for each entry of the first axis of `shape`.

        Args:
            x: (B, T, D).
            shape: (parts, *others), whose product is `units`; the layer's columns in this order.

        Returns:
            A list of `parts` tensors (B, T, *others).
        """
        dtype, (count, *others) = self.compute_dtype, shape
        kernels = ops.split(ops.cast(self._kernel, dtype), count, axis=1)
        outputs = [
            ops.tensordot(ops.cast(x, dtype), ops.reshape(kernel, (-1, *others)), axes=1)
            for kernel in kernels
        ]
        if self.bias is None:
            return outputs
        biases = ops.unstack(ops.reshape(ops.cast(self.bias, dtype), tuple(shape)), axis=0)
        return [y + bias for y, bias in zip(outputs, biases, strict=True)]

    def _product(self, x, kernel, bias=None, scale=None):
        dtype = self.compute_dtype
        if scale is not None:
            kernel = ops.convert_to_tensor(kernel) * ops.cast(scale, kernel.dtype)
            bias = (
                bias if bias is None else ops.convert_to_tensor(bias) * ops.cast(scale, bias.dtype)
            )
        return backends.linear(
            ops.cast(x, dtype),
            ops.cast(kernel, dtype),
            None if bias is None else ops.cast(bias, dtype),
        )

    def quantize(
        self, mode: str | None = None, type_check: bool = True, config: Any = None
    ) -> None:
        """Call `keras.layers.Dense.quantize`, which would refuse this subclass because of its own `call`."""
        super().quantize(mode, type_check=type_check and type(self) is not Linear, config=config)

    def enable_lora(
        self,
        rank: int,
        lora_alpha: float | None = None,
        a_initializer: str | keras.initializers.Initializer | None = None,
        b_initializer: str | keras.initializers.Initializer = "zeros",
    ) -> None:
        """Call `keras.layers.Dense.enable_lora`; a seed gives the same adapters on every backend.

        Args:
            rank: inner width of the adapter.
            lora_alpha: the adapter is scaled by lora_alpha / rank; default rank.
            a_initializer: initializer of the first matrix; default normal with standard deviation sqrt(2 /
                D).
            b_initializer: initializer of the second matrix.
        """
        if a_initializer is None and self.built:
            a_initializer = NormalInitializer(math.sqrt(2.0 / self._kernel.shape[0]))
        super().enable_lora(rank, lora_alpha, a_initializer, b_initializer)

    def merged_kernel(self) -> Tensor:
        """Return the kernel (D, units) with the adapters merged into it, in the variable dtype."""
        if not self.lora_enabled:
            return ops.convert_to_tensor(self._kernel)
        product = ops.matmul(self.lora_kernel_a, self.lora_kernel_b)
        merged = ops.cast(self._kernel, "float32") + product * (self.lora_alpha / self.lora_rank)
        return ops.cast(merged, self.variable_dtype)

    def save_own_variables(self, store: MutableMapping) -> None:
        """Save adapters separately: Keras saves the merged kernel, from which training cannot continue."""
        base = keras.layers.Layer if self.lora_enabled else keras.layers.Dense
        base.save_own_variables(self, store)

    def load_own_variables(self, store: MutableMapping) -> None:
        if self.lora_enabled and len(store.keys()) == len(self.variables):
            keras.layers.Layer.load_own_variables(self, store)
            return
        first = ops.convert_to_numpy(self.lora_kernel_a) if self.lora_enabled else None
        super().load_own_variables(store)
        if self.lora_enabled:  # Keras sets both matrices to zero, and then neither gets a gradient
            self.lora_kernel_a.assign(first)
