"""PyTorch: its fused kernels for dense, norm, attention and AdamW."""

import torch
import torch.nn.functional as F
from keras import ops
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


def barrier(x):
    return x


def rotate(x, cos, sin):
    """As `portable.rotate`; x (B, T, H, K)."""
    if torch.onnx.is_in_onnx_export():  # the exporter loses writes into slices
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
