"""Roofline model: predicted time of a training step from FLOPs and bytes.

Each part of the step takes the longer of its arithmetic at the device's peak and its traffic at the memory
bandwidth. Mixed bfloat16: products and branches use 2 bytes; residual stream, weights, gradients and
optimizer 4. A kernel reads its inputs and writes its outputs once; adjacent element-wise operations form one
kernel; attention is fused and stores no probabilities. A compiler that fuses more is faster, one that fuses
less or stalls is slower.

B images, N tokens, B N rows, D width, M width of the MLP, L blocks.
"""

import math
from dataclasses import dataclass

from nepa_keras.backbone import NepaBackbone
from nepa_keras.performance.flops import training_flops
from nepa_keras.tables import text_table


@dataclass(frozen=True)
class Device:
    """Peak FLOP/s of dense bfloat16 products, and memory bandwidth in bytes/s, from the data sheet."""

    name: str
    flops_per_second: float
    bytes_per_second: float


DEVICES = {
    "h100": Device("NVIDIA H100 SXM", 989e12, 3.35e12),
    "tpu_v5e": Device("TPU v5e chip", 197e12, 819e9),
    "tpu_v5p": Device("TPU v5p chip", 459e12, 2.765e12),
    "tpu_v6e": Device("TPU v6e chip", 918e12, 1.64e12),
}


def known_device(name: str) -> Device | None:
    """Return the data sheet of a device by its driver's name, or None.

    The PCIe and NVL versions of the H100 have other figures and other names.
    """
    names = {
        "NVIDIA H100 80GB HBM3": "h100",
        "TPU v5 lite": "tpu_v5e",
        "TPU v5e": "tpu_v5e",
        "TPU v5": "tpu_v5p",
        "TPU v5p": "tpu_v5p",
        "TPU v6 lite": "tpu_v6e",
        "TPU v6e": "tpu_v6e",
    }
    return DEVICES[names[name]] if name in names else None


@dataclass(frozen=True)
class Part:
    """One kind of kernel, with total FLOPs and bytes of a step."""

    name: str
    flops: float
    bytes: float

    def seconds(self, device: Device) -> float:
        """Lower bound of the time on a device: arithmetic or memory traffic, whichever is longer."""
        return max(self.flops / device.flops_per_second, self.bytes / device.bytes_per_second)


def step_parts(backbone: NepaBackbone, batch_size: int) -> list[Part]:
    """Return the parts of a training step.

    The backward pass of a part has twice the arithmetic and twice the traffic of the forward pass.
    """
    height, width, channels = backbone.image_shape
    patch, d, m = backbone.patch_size, backbone.hidden_dim, backbone.mlp_dim
    patches = (height // patch) * (width // patch)
    n = 1 + patches
    rows, layers = batch_size * n, backbone.num_layers

    def dense(inputs, outputs, count=1, rows=rows):
        """FLOPs and bytes of products; a weight is read as float32, written and read as bfloat16."""
        return (
            count * 2 * rows * inputs * outputs,
            count * (2 * rows * (inputs + outputs) + 8 * inputs * outputs),
        )

    hidden = [dense(d, m, count=2 if backbone.gated_mlp else 1), dense(m, d)]
    products = [dense(d, 3 * d), dense(d, d), *hidden]
    embedding = dense(patch**2 * channels, d, rows=batch_size * patches)
    norms = 2 * (4 + 2) * rows * d  # both branches: float32 in, bfloat16 out
    rotation = 2 * (2 + 2) * rows * d  # q and k, including their norm
    residual = 2 * (2 + 4 + 4) * rows * d  # branch and stream in, stream out
    activation = (3 if backbone.gated_mlp else 2) * 2 * rows * m
    parameters = sum(math.prod(v.shape) for v in backbone.trainable_variables)
    return [
        Part(
            "dense products",
            3 * (layers * sum(f for f, _ in products) + embedding[0]),
            3 * (layers * sum(b for _, b in products) + embedding[1]),
        ),
        Part("attention", 3 * layers * 4 * rows * n * d, 3 * layers * 2 * 4 * rows * d),
        Part(
            "norms, rotation, activation, residual",
            0,
            3 * layers * (norms + rotation + residual + activation),
        ),
        # Reads weight, gradient, both moments and the average; writes all but the gradient, which is
        # read once more for its norm.
        Part("optimizer", 0, 40 * parameters),
    ]


def predicted_step(backbone: NepaBackbone, batch_size: int, device: Device) -> tuple[float, float]:
    """Return (seconds, MFU) of a step in which every part runs at its bound."""
    seconds = sum(part.seconds(device) for part in step_parts(backbone, batch_size))
    flops = training_flops(backbone) * batch_size
    return seconds, flops / seconds / device.flops_per_second


def roofline_table(backbone: NepaBackbone, batch_size: int, device: Device) -> str:
    """Format the parts of a step, what bounds each, and the total."""
    title = (
        f"{device.name}: {device.flops_per_second / 1e12:.0f} TFLOP/s bfloat16, "
        f"{device.bytes_per_second / 1e12:.2f} TB/s; batch {batch_size}, prediction for a training step"
    )
    rows: list[tuple[str, ...]] = [("part", "TFLOP", "GB", "ms", "bound by")]
    for part in step_parts(backbone, batch_size):
        seconds = part.seconds(device)
        limit = "arithmetic" if part.flops / device.flops_per_second == seconds else "memory"
        sizes = (f"{size:.2f}" for size in (part.flops / 1e12, part.bytes / 1e9, seconds * 1e3))
        rows.append((part.name, *sizes, limit))
    seconds, mfu = predicted_step(backbone, batch_size, device)
    rows.append(("all", "", "", f"{seconds * 1e3:.2f}"))
    speed = f"MFU {mfu:.0%}, {batch_size / seconds:,.0f} images/s"
    return f"{title}\n{text_table(rows)}\n{speed}"
