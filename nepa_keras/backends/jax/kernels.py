"""JAX: computations of the layers, on CPU, and on accelerators, where memory is the limit."""

import ctypes
import functools
import math
import sys

import jax
import jax.numpy as jnp

from nepa_keras.backends import portable
from nepa_keras.backends.jax.target import TUNE_CPU, platform, tuned_for_cpu


def _keep_freed_memory():
    """Tell glibc to keep freed memory; works only before JAX starts its threads.

    XLA allocates the temporary memory of each step anew. Memory returned to the system costs a page fault per
    4 KiB in the next step: 10 to 20 % of the time of a tiny step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:  # another C library
        return
    trim_threshold, top_pad, mmap_max, arena_max = -1, -2, -4, -8
    mallopt(arena_max, 1)  # other arenas cannot hold blocks of this size
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(top_pad, 2**26)


if TUNE_CPU:
    _keep_freed_memory()


def linear(x, kernel, bias=None):
    of_form = portable.linear_of_rows if platform() == "cpu" else portable.linear
    return of_form(x, kernel, bias)


def optimization_barrier(x):
    """Keep XLA:CPU from recomputing the chain of residual gradients inside every layer."""
    return jax.lax.optimization_barrier(x) if tuned_for_cpu() else x


# erfc, because a SavedModel with JAX's erf needs a newer StableHLO than TensorFlow's.
_gelu_on_cpu = portable.gelu_of(lambda x: 0.5 * jax.lax.erfc(x * -(0.5**0.5)))


def gelu(x):
    return _gelu_on_cpu(x) if platform() == "cpu" else _gelu(x)


@jax.custom_vjp
def _gelu(x):
    """x Phi(x), computed in float32; only x is kept for the gradient, to save memory traffic."""
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
    """Compute `portable._normalise`, but keep x, which is in memory anyway, instead of y for the gradient."""
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
    return (_norm_gradient(x, mean, inverse, g),)


def _norm_gradient(x, mean, inverse, g):
    y = _normalised(x, mean, inverse)
    along_y = y * jnp.mean(g * y, axis=-1, keepdims=True)
    return inverse * (g - jnp.mean(g, axis=-1, keepdims=True) - along_y)


_normalise.defvjp(_normalise_forward, _normalise_gradient)


def rotated_norm(x, cos, sin, epsilon):
    if platform() == "tpu":
        return _rotated_norm(x, cos, sin, epsilon)
    return portable.rotate(layer_norm(x.astype("float32"), None, None, epsilon), cos, sin)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _rotated_norm(x, cos, sin, epsilon):
    """Norm and rotation as one function that keeps only x for the gradient, in its dtype.

    Separate functions would write slices of the normalised x and of its gradient to memory in float32. The
    tables get no gradient.
    """
    return _rotated_norm_forward(x, cos, sin, epsilon)[0]


def _rotated_norm_forward(x, cos, sin, epsilon):
    wide = x.astype("float32")
    mean, inverse = _statistics(wide, epsilon)
    y = (wide - mean) * cos + (_swapped(x).astype("float32") - mean) * _signed(sin)
    return (y * inverse).astype(x.dtype), (x, mean, inverse, cos, sin)


def _rotated_norm_gradient(epsilon, kept, g):
    x, mean, inverse, cos, sin = kept
    turned_back = g.astype("float32") * cos - _swapped(g).astype("float32") * _signed(sin)
    gradient = _norm_gradient(x.astype("float32"), mean, inverse, turned_back)
    return gradient.astype(x.dtype), jnp.zeros_like(cos), jnp.zeros_like(sin)


_rotated_norm.defvjp(_rotated_norm_forward, _rotated_norm_gradient)


def _swapped(x):
    """[a, b] -> [b, a]; in bfloat16 by an exact product with a permutation, cheaper than slices."""
    if x.dtype != jnp.bfloat16:
        return jnp.roll(x, x.shape[-1] // 2, axis=-1)
    return x @ jnp.roll(jnp.eye(x.shape[-1], dtype=x.dtype), x.shape[-1] // 2, axis=0)


def _signed(sin):
    """[s, s] -> [-s, s]."""
    half = sin.shape[-1] // 2
    return jnp.concatenate([-sin[..., :half], sin[..., half:]], axis=-1)


def remat(layer, x, **kwargs):
    """Compute `layer(x, **kwargs)` and recompute it in the backward pass.

    The layer runs statelessly, otherwise the states of its seed generators would leak out of the checkpointed
    trace.
    """
    seeds = layer.non_trainable_variables

    def run(trainable, non_trainable, x):
        return layer.stateless_call(trainable, non_trainable, x, **kwargs)

    trainable = [v.value for v in layer.trainable_variables]
    y, values = jax.checkpoint(run)(trainable, [v.value for v in seeds], x)
    for seed, value in zip(seeds, values, strict=True):
        seed.assign(value)
    return y
