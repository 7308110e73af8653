"""Implementations in `keras.ops` that several backends share."""

import itertools
import math

import keras
from keras import ops

_CAUSAL_BLOCKS, _SMALLEST_BLOCK = 4, 16  # number of query blocks, and least queries in one


def scale_pixels(x):
    """Scale uint8 to float32 in [-1, 1], by operations that are exact on every backend.

    NumPy's 2 / 255 x - 1 rounds twice, a compiled version once (fused multiply-add). NumPy's results are
    multiples of 2**-24 and differ from (2 x - 255) / 255 by a few of these units, a step function of x.
    """
    x = ops.cast(x, "float32")
    away = sum(ops.cast(x >= first, "float32") for first in (48.0, 96.0, 192.0, 192.0))
    away = away - 2.0 * ops.cast(x >= 255.0, "float32") - 1.0
    return ((2.0 * x - 255.0) * 65793.0 + away) * 2.0**-24  # 65793 = 2**24 // 255


def linear(x, kernel, bias=None):
    """`x @ kernel + bias` over the last axis of x."""
    y = ops.matmul(x, kernel)
    return y if bias is None else y + bias


def linear_of_rows(x, kernel, bias=None):
    """Compute `linear` as one 2-D product: faster on CPU than batched ones, elsewhere reshaping may copy."""
    y = ops.matmul(ops.reshape(x, (-1, x.shape[-1])), kernel)
    y = y if bias is None else y + bias
    return ops.reshape(y, (*ops.shape(x)[:-1], kernel.shape[-1]))


def layer_norm(x, gamma, beta, epsilon):
    """Two-pass LayerNorm over the last axis: the mean is subtracted before squaring.

    `keras.ops.layer_normalization` computes x*inv - mean*inv, which cancels if the mean is much larger than
    the standard deviation.
    """
    y = _normalise(epsilon)(x)
    if gamma is not None:
        y = y * gamma
    return y if beta is None else y + beta


def _normalise(epsilon):
    """Return the function y = (x - mean) / sqrt(var + epsilon) with an explicit gradient.

    dx = (g - mean(g) - y mean(g y)) / sqrt(var + epsilon) needs fewer passes over memory than automatic
    differentiation.
    """

    @ops.custom_gradient
    def normalise(x):
        centred = x - ops.mean(x, axis=-1, keepdims=True)
        variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)
        inverse = ops.rsqrt(variance + epsilon)
        y = centred * inverse

        def gradient(g):
            along_y = y * ops.mean(g * y, axis=-1, keepdims=True)
            return inverse * (g - ops.mean(g, axis=-1, keepdims=True) - along_y)

        return y, gradient

    return normalise


def gelu_of(distribution):
    """Return x Phi(x) for an implementation of the normal distribution Phi, with an explicit gradient.

    The gradient is Phi(x) + x phi(x), where phi is the density.
    """

    @ops.custom_gradient
    def gelu(x):
        share = distribution(x)

        def gradient(g):
            density = (2.0 * math.pi) ** -0.5 * ops.exp(-0.5 * ops.square(x))
            return g * (share + x * density)

        return x * share, gradient

    return gelu


def rotate(x, cos, sin):
    """x * cos + rotate_half(x) * sin, where rotate_half([a, b]) = [-b, a]; x (..., K).

    The two halves of each table are equal, as in `layers.rotary.rope_tables`.
    """
    first, second = ops.split(x, 2, axis=-1)
    return x * cos + ops.concatenate([-second, first], axis=-1) * sin


def global_norm(gradients):
    """L2 norm over all tensors of a list, float32."""
    squares = [ops.sum(ops.square(ops.cast(g, "float32"))) for g in gradients]
    return ops.sqrt(ops.sum(ops.stack(squares)))


def attention_probabilities(q, k, scale, causal, first=0):
    """softmax(q k^T * scale) in float32; q (B, queries, H, K), k (B, N, H, K) -> (B, H, queries, N).

    `first` is the position of the first query.
    """
    scores = ops.matmul(ops.transpose(q, (0, 2, 1, 3)), ops.transpose(k, (0, 2, 3, 1)))
    scores = ops.cast(scores, "float32") * scale
    if causal:
        queries, keys = (ops.arange(ops.shape(x)[1], dtype="int32") for x in (q, k))
        visible = first + queries[:, None] >= keys[None, :]
        scores = ops.where(visible, scores, -1e30)
    return ops.softmax(scores, axis=-1)


def weighted_values(weights, v):
    """Sum the values: weights (B, H, queries, N), v (B, N, H, K) -> (B, queries, H, K)."""
    return ops.transpose(ops.matmul(weights, ops.transpose(v, (0, 2, 1, 3))), (0, 2, 1, 3))


def blocks_of_queries(length, causal, platform):
    """Number of blocks of queries for `explicit_attention`.

    Several on CPU, to skip masked products; one elsewhere, where memory traffic is the limit and slicing adds
    to it.
    """
    if length is None or not causal:  # a graph for any number of tokens, or nothing to leave out
        return 1
    return min(_CAUSAL_BLOCKS, max(1, length // _SMALLEST_BLOCK)) if platform == "cpu" else 1


def explicit_form(length, causal, platform):
    """Describe the implementation in words that follow "attention"."""
    blocks = blocks_of_queries(length, causal, platform)
    pieces = "one piece" if blocks == 1 else f"{blocks} pieces"
    return f"by explicit scores in {pieces} ({platform.upper()})"


def explicit_attention(q, k, v, scale, causal, blocks=1):
    """Attention by explicit scores; q, k, v (B, N, H, K) -> (B, N, H, K).

    If causal, n blocks of queries are each multiplied by the keys they see: (n + 1) / 2n of all scores.
    """
    if blocks == 1:
        probabilities = attention_probabilities(q, k, scale, causal)
        return weighted_values(ops.cast(probabilities, v.dtype), v)
    length = q.shape[1]
    ends = [length * (i + 1) // blocks for i in range(blocks)]
    outputs = []
    for start, end in zip([0, *ends], ends, strict=False):
        probabilities = attention_probabilities(
            q[:, start:end], k[:, :end], scale, causal, first=start
        )
        outputs.append(weighted_values(ops.cast(probabilities, v.dtype), v[:, :end]))
    return ops.concatenate(outputs, axis=1)


def compiled(function):
    """Return the function unchanged: the whole step is compiled."""
    return function


def remat(layer, x, **kwargs):
    """Compute `layer(x, **kwargs)` and recompute it in the backward pass, with the same random numbers."""
    seeds = layer.non_trainable_variables
    at_start = [ops.copy(seed) for seed in seeds]
    recomputing = False

    def run(x):
        nonlocal recomputing
        if not recomputing:
            recomputing = True
            return layer(x, **kwargs)
        at_end = [ops.copy(seed) for seed in seeds]
        _assign(seeds, at_start)
        try:
            # PyTorch ends a recomputation early by an exception. `layer.__call__` would add information to
            # it, in a reference cycle that keeps the activations until the next garbage collection.
            return layer.call(x, **kwargs)
        finally:
            _assign(seeds, at_end)

    return keras.remat(run)(x)


def _assign(variables, values):
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _bias_correction(beta, step):
    """1 - beta^step by expm1: the plain difference loses float32 digits when beta^step is near 1."""
    return -ops.expm1(step * math.log(beta)) if beta > 0.0 else 1.0


def adamw_update(
    variables,
    gradients,
    moments,
    velocities,
    averages,
    *,
    learning_rate,
    weight_decay,
    beta_1,
    beta_2,
    epsilon,
    step,
    gradient_scale,
    ok,
    average_keep,
):
    """One AdamW step and EMA update; a false `ok` turns it into the identity, without a branch.

    With ok = 0 the gradient is replaced by 0, both betas by 1, the rate by 0 and the EMA decay by 1, so that
    weights, moments and averages stay bit-identical.

    Args:
        variables, gradients, moments, velocities: lists of equal length.
        averages: list of EMA variables, or None.
        learning_rate, weight_decay: values for this group of variables.
        beta_1, beta_2, epsilon: constants of Adam.
        step: float scalar, number of updates including this one.
        gradient_scale: float scalar that multiplies all gradients (clipping, loss scale).
        ok: boolean scalar.
        average_keep: EMA decay of this step.
    """
    passed = ops.cast(ok, "float32")
    learning_rate = ops.where(ok, learning_rate, 0.0)  # a product would keep a NaN
    new_1, new_2 = passed * (1.0 - beta_1), passed * (1.0 - beta_2)
    correction_1, correction_2 = _bias_correction(beta_1, step), _bias_correction(beta_2, step)
    new_average = passed * (1.0 - average_keep)
    for i, (w, g, m, v) in enumerate(zip(variables, gradients, moments, velocities, strict=True)):
        g = ops.where(ok, ops.cast(g, "float32") * gradient_scale, 0.0)  # also of bfloat16 weights
        m_next = m * (1.0 - new_1) + new_1 * g
        v_next = v * (1.0 - new_2) + new_2 * ops.square(g)
        denominator = ops.sqrt(v_next / correction_2) + epsilon
        w_next = w * (1.0 - learning_rate * weight_decay) - learning_rate * (
            (m_next / correction_1) / denominator
        )
        m.assign(m_next)
        v.assign(v_next)
        w.assign(w_next)
        if averages is not None:
            averages[i].assign(averages[i] * (1.0 - new_average) + new_average * w_next)


def first_batch(batches, number):
    """Return the first batch for a step function, and an iterable of all batches.

    Args:
        batches: a list or an iterator.
        number: number of batches that the step function takes from an iterator.

    Returns:
        (first, batches): first as NumPy arrays, or None if the backend cannot read it.
    """
    first, batches = peek(batches)
    return keras.tree.map_structure(ops.convert_to_numpy, first), batches


def peek(batches):
    """Return the first item of a list or iterator, and an iterable of all items."""
    if isinstance(batches, list):
        return batches[0], batches
    first = next(batches)
    return first, itertools.chain([first], batches)
