"""PyTorch: fused kernels for dense layers, norm, attention and AdamW."""

import functools
import warnings
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from keras import ops
from keras.src.backend.common.variables import AutocastScope
from keras.src.backend.torch.core import get_device

from nepa_keras.backends import portable


def scale_pixels(x):
    """Compute `portable.scale_pixels` by a lookup table, in one pass instead of ten."""
    table = portable.scale_pixels(torch.arange(256, device=x.device))
    return table.index_select(0, x.reshape(-1).to(torch.int32)).view(x.shape)


def linear(x, kernel, bias=None):
    return F.linear(x, kernel.T, bias)


def layer_norm(x, gamma, beta, epsilon):
    width = int(x.shape[-1])  # a constant also when PyTorch traces an export
    return F.layer_norm(x, (width,), gamma, beta, epsilon)


def gelu(x):
    return F.gelu(x)


def attention(q, k, v, scale, causal, bound=None):
    """Fused attention; q, k, v (B, N, H, K) -> (B, N, H, K)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale).transpose(1, 2)


def attention_form(length, width, dtype, causal):
    return f"by PyTorch's scaled_dot_product_attention ({platform().upper()})"


def platform() -> str:
    """Type of the device that Keras puts tensors on: "cpu", "cuda" or another."""
    return get_device().partition(":")[0]


def optimization_barrier(x):
    return x


class _State:
    """Flag of this process, not of a thread: autograd's threads run functions again."""

    compiles = False


@contextmanager
def compiling(wanted: bool):
    """Let `compiled` compile inside the context if wanted."""
    before, _State.compiles = _State.compiles, wanted
    try:
        yield
    finally:
        _State.compiles = before


def compiled(function):
    """Compile the function as one graph per kind of arguments, in a step of a model with `jit_compile`.

    Variables of a layer argument are inputs of the graph, so that equal layers share it.
    """
    return functools.partial(_run, _compile(function)) if _State.compiles else function


def _run(program, *arguments):
    """Run a compiled function under equal conditions (strides, Keras' scope), so that its graph is reused."""
    alike = [x.contiguous() if isinstance(x, torch.Tensor) else x for x in arguments]
    with AutocastScope(None):  # layers cast for themselves; recomputed ones have no scope either
        return program(*alike)


@functools.cache
def _compile(function):
    # Each image or batch size needs a graph; beyond this limit, over all models, PyTorch runs eagerly.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    # Harmless: Keras caches functions of dtypes, whose results are constant.
    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
    return torch.compile(function, dynamic=False)


def rotate(x, cos, sin):
    """Compute `portable.rotate`; x (B, N, H, K)."""
    if torch.onnx.is_in_onnx_export() or torch.compiler.is_compiling():
        # The exporter loses writes to slices; a compiler fuses the portable form into one pass.
        return portable.rotate(x, cos, sin)
    return _Rotate.apply(x, cos, sin)


def rotated_norm(x, cos, sin, epsilon):
    return rotate(layer_norm(x.float(), None, None, epsilon), cos, sin)


class _Rotate(torch.autograd.Function):
    """Rotation in two passes over x each way; slices and a concatenation take five."""

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx, gradient):
        cos, sin = ctx.saved_tensors
        return _turned(gradient, cos, -sin), None, None  # the inverse rotation


def _turned(x, cos, sin):
    half = x.shape[-1] // 2
    y = x * cos
    y[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1.0)
    y[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return y


def global_norm(gradients):
    """L2 norm over all tensors of a list, in one pass without a tensor of squares."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


@torch.compiler.disable  # fused in-place kernels, which a compiler cannot trace
@torch.no_grad()
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
    """Compute `portable.adamw_update` by torch's fused kernel, which skips itself if not `ok`."""
    weights = [v.value for v in variables]
    step, gradient_scale = ops.convert_to_tensor(step), ops.convert_to_tensor(gradient_scale)
    torch._fused_adamw_(
        weights,
        list(gradients),
        [m.value for m in moments],
        [v.value for v in velocities],
        [],
        [step.to(torch.float32)] * len(weights),
        amsgrad=False,
        lr=float(learning_rate) if step.device.type == "cpu" else learning_rate,
        beta1=beta_1,
        beta2=beta_2,
        weight_decay=weight_decay,
        eps=epsilon,
        maximize=False,
        grad_scale=1.0 / gradient_scale,  # the kernel divides gradients by this value
        found_inf=1.0 - ok.to(torch.float32),
    )
    if averages is not None:
        share = ok.to(torch.float32) * (1.0 - average_keep)
        averages = [a.value for a in averages]
        if share.device.type == "cpu":
            torch._foreach_lerp_(averages, weights, float(share))
        else:  # the share stays a tensor: the host must not wait for the device
            torch._foreach_mul_(averages, 1.0 - share)
            torch._foreach_add_(averages, torch._foreach_mul(weights, share))
