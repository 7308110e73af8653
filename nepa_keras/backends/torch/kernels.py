"""PyTorch: its fused kernels for dense, norm, attention and AdamW."""

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
    """As `portable.scale_pixels`, by a table: in one pass where sums and products take ten."""
    table = portable.scale_pixels(torch.arange(256, device=x.device))
    return table.index_select(0, x.reshape(-1).to(torch.int32)).view(x.shape)


def linear(x, kernel, bias=None):
    return F.linear(x, kernel.T, bias)


def layer_norm(x, gamma, beta, epsilon):
    width = int(x.shape[-1])  # a number also while PyTorch traces an export
    return F.layer_norm(x, (width,), gamma, beta, epsilon)


def gelu(x):
    return F.gelu(x)


def attention(q, k, v, scale, causal, bound=None):
    """Fused attention; q, k, v (B, T, H, K) -> (B, T, H, K)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale).transpose(1, 2)


def attention_form(length, width, dtype, causal):
    return f"by PyTorch's scaled_dot_product_attention ({platform().upper()})"


def platform() -> str:
    """Of the device that Keras puts tensors on: "cpu", "cuda" or another."""
    return get_device().partition(":")[0]


def optimization_barrier(x):
    return x


class _State:
    """Of this process, as PyTorch's threads for gradients run functions again."""

    compiles = False


@contextmanager
def compiling(wanted: bool):
    """Inside, `compiled` compiles, or does not."""
    before, _State.compiles = _State.compiles, wanted
    try:
        yield
    finally:
        _State.compiles = before


def compiled(function):
    """In a step of a model with `jit_compile`: the function in one graph, for each kind of arguments.

    The tensors of layers among the arguments are inputs of the graph, so layers that are alike share it.
    """
    return functools.partial(_run, _compile(function)) if _State.compiles else function


def _run(program, *arguments):
    """Runs it so that the same graph serves each time: PyTorch looks at strides, and at where Keras is."""
    alike = [x.contiguous() if isinstance(x, torch.Tensor) else x for x in arguments]
    with AutocastScope(None):  # layers cast for themselves; a recomputed one is in no scope anyway
        return program(*alike)


@functools.cache
def _compile(function):
    # Each size of images or batch is a graph, those of all models of a process count together, and what is
    # above the limit is eager.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    # It traces what Keras computes of dtypes, which is always the same.
    warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")
    return torch.compile(function, dynamic=False)


def rotate(x, cos, sin):
    """As `portable.rotate`; x (B, T, H, K)."""
    if torch.onnx.is_in_onnx_export() or torch.compiler.is_compiling():
        # The exporter loses writes into slices, and a compiler makes one pass of this.
        return portable.rotate(x, cos, sin)
    return _Rotate.apply(x, cos, sin)


def rotated_norm(x, cos, sin, epsilon):
    return rotate(layer_norm(x.float(), None, None, epsilon), cos, sin)


class _Rotate(torch.autograd.Function):
    """Two passes over x each way, where slices and a concatenation take five."""

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin)

    @staticmethod
    def backward(ctx, gradient):
        cos, sin = ctx.saved_tensors
        return _turned(gradient, cos, -sin), None, None  # the inverse of a rotation


def _turned(x, cos, sin):
    half = x.shape[-1] // 2
    y = x * cos
    y[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1.0)
    y[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return y


def global_norm(gradients):
    """L2 norm over all tensors of a list; one pass, without a tensor of squares."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))


@torch.compiler.disable  # fused kernels that change their arguments, which a compiler cannot follow
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
    """As `portable.adamw_update`, by torch's fused kernel, which skips itself where not `ok`."""
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
        grad_scale=1.0 / gradient_scale,  # the kernel divides by it
        found_inf=1.0 - ok.to(torch.float32),
    )
    if averages is not None:
        share = ok.to(torch.float32) * (1.0 - average_keep)
        averages = [a.value for a in averages]
        if share.device.type == "cpu":
            torch._foreach_lerp_(averages, weights, float(share))
        else:  # a tensor share, so that the host does not wait for the device
            torch._foreach_mul_(averages, 1.0 - share)
            torch._foreach_add_(averages, torch._foreach_mul(weights, share))
