"""PyTorch: eager, with its fused kernels for dense, norm, attention and AdamW."""

import keras
import torch
import torch.nn.functional as F
from keras import ops

from nepa_keras.backends import portable, torch_devices
from nepa_keras.backends.portable import remat
from nepa_keras.backends.torch_devices import (
    alone,
    is_distributed,
    mean_over_replicas,
    of_all_processes,
    part_of_replica,
    process,
    replicas,
    start_distribution,
    whole_value,
)

__all__ = [
    "adamw_update",
    "alone",
    "attention",
    "barrier",
    "default_jit_compile",
    "device_name",
    "fit_input",
    "gelu",
    "global_norm",
    "is_distributed",
    "layer_norm",
    "linear",
    "make_function",
    "mean_over_replicas",
    "of_all_processes",
    "part_of_replica",
    "process",
    "remat",
    "replicas",
    "rotate",
    "start_distribution",
    "test_step",
    "train_step",
    "whole_value",
]


def linear(x, kernel, bias=None):
    return F.linear(x, kernel.T, bias)


def layer_norm(x, gamma, beta, epsilon):
    width = int(x.shape[-1])  # a number also while PyTorch traces an export
    return F.layer_norm(x, (width,), gamma, beta, epsilon)


def gelu(x):
    return F.gelu(x)


def attention(q, k, v, scale, causal):
    """Fused attention; q, k, v (B, T, H, K) -> (B, T, H, K)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale).transpose(1, 2)


def fit_input(model, batches):
    return batches


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def default_jit_compile() -> bool:
    return False


def barrier(x):
    return x


def make_function(model, name, keras_make_function, force=False):
    if force or getattr(model, name) is None:  # not as an attribute, or Keras saw the model twice
        model.__dict__["in_parallel"] = None
    return keras_make_function(force)


def rotate(x, cos, sin):
    """As `portable.rotate`; x (B, T, H, K)."""
    if torch.onnx.is_in_onnx_export():  # the exporter loses writes into slices
        return portable.rotate(x, cos, sin)
    return _Rotate.apply(x, cos, sin)


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


def train_step(model, data):
    """One guarded step; returns the logs. Interface: `GuardedModel.record_step`."""
    x, y, sample_weight = keras.tree.map_structure(
        lambda a: None if a is None else ops.convert_to_tensor(a),
        keras.utils.unpack_x_y_sample_weight(data),
        none_is_leaf=True,
    )
    with torch_devices.step():
        return _step(model, x, y, sample_weight)


def _step(model, x, y, sample_weight):
    variables = list(model.trainable_variables)
    statistics = [(v, v.value.clone()) for v in model.moving_statistics]
    model.zero_grad()
    if replicas() > 1 and model.in_parallel is None:
        model.__dict__["in_parallel"] = torch_devices.wrap(model)
    y_pred = (model.in_parallel if replicas() > 1 else model)(x, training=True)
    loss = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)
    model.optimizer.scale_loss(loss).backward()
    gradients = [v.value.grad for v in variables]
    with torch.no_grad():
        loss = mean_over_replicas(loss.detach())
        learning_rate = ops.convert_to_tensor(model.optimizer.learning_rate).clone()
        norm, ok = _apply(model.optimizer, gradients, variables, loss)
        for variable, old in statistics:
            variable.assign(torch.where(ok, variable.value, old))
        y_pred = keras.tree.map_structure(lambda a: a.detach(), y_pred)
        logs = model.record_step(x, y, y_pred, sample_weight, loss, norm, ok, learning_rate.clone())
        if replicas() > 1:  # metrics given to `compile` know the images of this process only
            values = torch.stack([v.to(torch.float32) for v in logs.values()])
            logs = dict(zip(logs, mean_over_replicas(values), strict=True))
        return logs


def test_step(model, keras_test_step, *args):
    return keras_test_step(*args)


def _apply(optimizer, gradients, variables, loss):
    if hasattr(optimizer, "apply_guarded"):
        return optimizer.apply_guarded(gradients, variables, loss)
    norm = global_norm([g for g in gradients if g is not None])
    ok = torch.isfinite(norm) & torch.isfinite(loss)
    if ok:
        optimizer.apply(gradients, variables)
    return norm, ok
