"""JAX: attention by cuDNN, by explicit scores, or by scores with a known bound."""

import functools

import jax
import jax.numpy as jnp

from nepa_keras.backends import portable
from nepa_keras.backends.jax.target import platform

_LARGEST_BOUND = 40.0  # e^40 times any number of tokens, and its inverse, are within float32


def attention(q, k, v, scale, causal, bound=None):
    """See `nepa_keras.backends`; q, k, v (B, N, H, K) -> (B, N, H, K)."""
    length, width = q.shape[1], q.shape[-1]
    if _cudnn_takes(width, q.dtype.name):
        return _by_cudnn(q, k, v, scale, causal)
    if _takes_bound(bound, q.dtype.name):
        return _bounded(q, k, v, scale, causal)
    blocks = portable.blocks_of_queries(length, causal, platform())
    return portable.explicit_attention(q, k, v, scale, causal, blocks)


def attention_form(length, width, dtype, causal):
    if _cudnn_takes(width, dtype):
        return "by cuDNN (GPU)"
    return portable.explicit_form(length, causal, platform())


def _by_cudnn(q, k, v, scale, causal):
    """cuDNN's attention, in half precision on GPU.

    `keras.ops.dot_product_attention` does not serve: for training at an odd length, such as CLS and 256
    patches, it logs a traceback per layer and falls back to explicit scores, which doubles the time of a
    step.
    """
    batch, length = q.shape[:2]
    lengths = None
    if length % 2:  # cuDNN's gradient needs an even length
        q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
        if not causal:  # the causal mask already hides the padded key
            lengths = jnp.full((batch,), length, "int32")
    heads = jax.nn.dot_product_attention(
        q,
        k,
        v,
        scale=scale,
        is_causal=causal,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return heads[:, :length]


def _cudnn_takes(width, dtype) -> bool:
    """Check for half precision and a head width that cuDNN supports, on Ampere or later."""
    if platform() != "gpu" or dtype not in ("bfloat16", "float16"):
        return False
    return width % 8 == 0 and width <= 128 and _compute_capability() >= 8.0


def _compute_capability() -> float:
    """CUDA compute capability of the first device; 0 for other vendors."""
    return float(getattr(jax.devices()[0], "compute_capability", 0) or 0)


def _takes_bound(bound, dtype) -> bool:
    """Check for a small bound on TPU, where memory traffic is the limit; float16 could overflow."""
    known = bound is not None and bound <= _LARGEST_BOUND
    return known and platform() == "tpu" and dtype != "float16"


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _bounded(q, k, v, scale, causal):
    """Attention for scores whose exponential cannot overflow.

    The softmax then needs no maximum: with E = exp(q k^T * scale) the output is (E v) / (E 1). Only E is
        written
    to memory, in the compute dtype, instead of float32 scores around the maximum, the sum and the division.
    The gradient uses D = dO . O, as in flash attention, and reads E twice: for values and for scores.
    """
    return _bounded_forward(q, k, v, scale, causal)[0]


def _bounded_forward(q, k, v, scale, causal):
    scores = _product("bqhk,bthk->bhqt", q, k) * scale
    powers = jnp.exp(scores)
    if causal:
        positions = jnp.arange(q.shape[1])
        powers = jnp.where(positions[:, None] >= positions[None, :], powers, 0.0)
    powers = powers.astype(v.dtype)
    inverse = 1.0 / _of_queries(jnp.sum(powers, axis=-1, dtype="float32"))
    heads = (_product("bhqt,bthk->bqhk", powers, v) * inverse).astype(v.dtype)
    return heads, (q, k, v, powers, inverse, heads)


def _bounded_gradient(scale, causal, kept, g):
    q, k, v, powers, inverse, heads = kept
    g = (g.astype("float32") * inverse).astype(v.dtype)
    along = jnp.sum(g.astype("float32") * heads.astype("float32"), axis=-1)  # (B, N, H)
    of_values = _product("bhqt,bqhk->bthk", powers, g)
    of_powers = _product("bqhk,bthk->bhqt", g, v) - jnp.transpose(along, (0, 2, 1))[..., None]
    of_scores = (powers.astype("float32") * of_powers * scale).astype(v.dtype)
    of_queries = _product("bhqt,bthk->bqhk", of_scores, k)
    of_keys = _product("bhqt,bqhk->bthk", of_scores, q)
    return of_queries.astype(q.dtype), of_keys.astype(k.dtype), of_values.astype(v.dtype)


_bounded.defvjp(_bounded_forward, _bounded_gradient)


def _product(axes, a, b):
    """`jnp.einsum` with float32 accumulation and result."""
    return jnp.einsum(axes, a, b, preferred_element_type="float32")


def _of_queries(x):
    """Transpose sums over keys to queries: (B, H, N) -> (B, N, H, 1)."""
    return jnp.transpose(x, (0, 2, 1))[..., None]
