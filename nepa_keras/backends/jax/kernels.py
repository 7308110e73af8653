"""JAX: what the layers compute, on CPU and elsewhere: there XLA fuses more, and memory is the limit."""

import ctypes
import functools
import math
import sys

import jax
import jax.numpy as jnp

from nepa_keras.backends import portable
from nepa_keras.backends.jax.target import TUNE_CPU, platform, tuned_for_cpu


def _keep_freed_memory():
    """Tells glibc not to give memory back to the system; only before JAX starts its threads.

    XLA allocates the temporary memory of a step anew each time. Giving it back costs a page fault
    for each 4 KiB of it in the next step, together a tenth to a fifth of a tiny one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:  # another C library
        return
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8
    mallopt(arena_max, 1)  # the others cannot hold blocks of this size
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**26)


if TUNE_CPU:
    _keep_freed_memory()


def linear(x, kernel, bias=None):
    of_form = portable.linear_of_rows if platform() == "cpu" else portable.linear
    return of_form(x, kernel, bias)


def barrier(x):
    """Stops XLA:CPU from recomputing the chain of residual gradients inside every layer."""
    return jax.lax.optimization_barrier(x) if tuned_for_cpu() else x


# By erfc, as a SavedModel of JAX's erf asks for a newer StableHLO than TensorFlow's.
_gelu_on_cpu = portable.gelu_of(lambda x: 0.5 * jax.lax.erfc(x * -(0.5**0.5)))


def gelu(x):
    return _gelu_on_cpu(x) if platform() == "cpu" else _gelu(x)


@jax.custom_vjp
def _gelu(x):
    """x Phi(x), inside in float32; only x is kept for the gradient, as memory is what it waits for."""
    wide = x.astype(jnp.promote_types(x.dtype, "float32"))
    return (wide * _distribution(wide)).astype(x.dtype)


def _distribution(x):
    return 0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)


def _gelu_gradient(x, g):
    wide = x.astype(jnp.promote_types(x.dtype, "float32"))
    density = (2.0 * math.pi) ** -0.5 * jnp.exp(-0.5 * wide * wide)
    return ((g.astype(wide.dtype) * (_distribution(wide) + wide * density)).astype(x.dtype),)


_gelu.defvjp(lambda x: (_gelu(x), x), _gelu_gradient)


def layer_norm(x, gamma, beta, epsilon):
    if platform() == "cpu":
        return portable.layer_norm(x, gamma, beta, epsilon)
    y = _normalise(x, epsilon)
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _normalise(x, epsilon):
    """As that of `portable.layer_norm`, but keeps x, which the residual stream has anyway, not y."""
    return _normalised(x, *_statistics(x, epsilon))


def _statistics(x, epsilon):
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=-1, keepdims=True)
    return mean, jax.lax.rsqrt(variance + epsilon)


def _normalised(x, mean, inverse):
    return (x - mean) * inverse


def _normalise_forward(x, epsilon):
    mean, inverse = _statistics(x, epsilon)
    return _normalised(x, mean, inverse), (x, mean, inverse)


def _normalise_gradient(epsilon, kept, g):
    x, mean, inverse = kept
    y = _normalised(x, mean, inverse)
    along_y = y * jnp.mean(g * y, axis=-1, keepdims=True)
    return (inverse * (g - jnp.mean(g, axis=-1, keepdims=True) - along_y),)


_normalise.defvjp(_normalise_forward, _normalise_gradient)


def remat(layer, x, **kwargs):
    """`layer(x, **kwargs)`, recomputed in the backward pass.

    The layer runs statelessly inside, or the states of its seed generators would leak out of the
    checkpointed trace.
    """
    seeds = layer.non_trainable_variables

    def run(trainable, non_trainable, x):
        return layer.stateless_call(trainable, non_trainable, x, **kwargs)

    trainable = [v.value for v in layer.trainable_variables]
    y, values = jax.checkpoint(run)(trainable, [v.value for v in seeds], x)
    for seed, value in zip(seeds, values, strict=True):
        seed.assign(value)
    return y
