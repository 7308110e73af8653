"""Computed time, memory and communication of a pretraining on ImageNet-1k, for given machines and layouts.

With n devices, a batch of B images per update in k micro-batches (parts), F matrix FLOPs per image
(`training_flops`), P parameters and U updates:

    compute    B / n  F [remat: 4/3]  /  (peak  MFU)             seconds per update
    replicated k  2 (n - 1) / n  4 P  /  link                    all-reduce of float32 gradients
    sharded    k  3 (n - 1) / n  4 P  /  link                    two all-gathers, one reduce-scatter (FSDP)
    hours      U (compute + communication) / 3600                without overlap: an upper bound at this MFU
    memory     state + copies + B / (n k)  bytes per image       see `step_memory`

The link bandwidth counts one direction; all links send and receive at once. Latency is neglected.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from nepa_keras.backbone import NepaBackbone
from nepa_keras.performance.flops import training_flops
from nepa_keras.performance.roofline import DEVICES, Device, predicted_step
from plan.step_memory import copy_bytes, image_bytes, state_bytes

USABLE = (
    0.8  # fraction of a device's memory; the rest is for the runtime, work space and fragmentation
)
IMAGENET_IMAGES, IMAGENET_BYTES = 1_281_167, 147.9e9  # ILSVRC2012_img_train.tar


@dataclass(frozen=True)
class Machine:
    """A group of equal devices, with figures published by the manufacturers.

    Attributes:
        name: name in the tables.
        device: peak and memory bandwidth of a device.
        devices: number of devices.
        memory_bytes: memory of a device.
        link_bytes_per_second: bandwidth from a device to the others, all links together, in one direction.
        devices_per_host: number of devices fed by one host.
        fused_attention: whether the library has fused attention on this device.
    """

    name: str
    device: Device
    devices: int
    memory_bytes: float
    link_bytes_per_second: float
    devices_per_host: int
    fused_attention: bool


# NVLink: 900 GB/s in both directions together. ICI of a v5e chip: 400 GB/s in both directions together (also
# published as 1 600 Gbit/s); an 8x8 slice lacks the wrap-around links of a ring, so half is counted there.
MACHINES = {
    "h100-8": Machine("8 x H100", DEVICES["h100"], 8, 80e9, 450e9, 8, True),
    "v5e-64": Machine("v5e-64", DEVICES["tpu_v5e"], 64, 16e9, 100e9, 8, False),
    "v5e-256": Machine("v5e-256", DEVICES["tpu_v5e"], 256, 16e9, 200e9, 8, False),
}


@dataclass(frozen=True)
class Recipe:
    """Length and batch size of a run; the default is pretraining by the authors' released scripts."""

    epochs: int = 1600
    batch_size: int = 4096
    images: int = IMAGENET_IMAGES

    @property
    def updates(self) -> int:
        """Number of updates; the last incomplete batch of an epoch is dropped."""
        return self.epochs * (self.images // self.batch_size)


@dataclass(frozen=True)
class Layout:
    """One way to distribute a training over a machine, and its cost.

    Attributes:
        sharded: whether weights, gradients, moments and averages are sharded over the devices (FSDP).
        remat: whether blocks are recomputed in the backward pass.
        largest_batch: largest number of images per device; 0 if the state alone does not fit.
        parts: micro-batches per update (`accumulation_steps`); 0 if nothing fits.
        state_bytes: state on a device, including the copies of the weights.
        image_bytes: additional memory per image.
        used_bytes: memory of a device in a step.
        communication_seconds: time of communication per update.
        flops: FLOPs of a device per update, including recomputation.
        roofline_mfu: upper bound of the MFU by `predicted_step` for this batch size, which assumes fused
            attention, an unsharded optimizer and no recomputation.
    """

    sharded: bool
    remat: bool
    largest_batch: int
    parts: int
    state_bytes: float
    image_bytes: float
    used_bytes: float
    communication_seconds: float
    flops: float
    roofline_mfu: float


def check(recipe: Recipe, machines: Iterable[Machine]) -> None:
    """Check that the batch fits the data and the machines.

    Raises:
        ValueError: an epoch is smaller than a batch, or the batch is not divisible by a machine's devices.
    """
    if not recipe.updates:
        raise ValueError(f"{recipe.images} images are less than a batch of {recipe.batch_size}.")
    for machine in machines:
        if recipe.batch_size % machine.devices:
            raise ValueError(
                f"A batch of {recipe.batch_size} cannot be divided among the {machine.devices} devices of "
                f"{machine.name}; give a multiple of {machine.devices}."
            )


def reduce_seconds(
    backbone: NepaBackbone, devices: int, link_bytes_per_second: float, sharded: bool
) -> float:
    """Time to reduce one gradient in seconds: (3 if sharded, else 2) (n - 1) / n 4 P / link."""
    passes = 3 if sharded else 2
    return passes * (devices - 1) / devices * 4 * backbone.count_params() / link_bytes_per_second


def layout(
    backbone: NepaBackbone, machine: Machine, recipe: Recipe, sharded: bool, remat: bool
) -> Layout:
    """Compute the cost of a layout with the fewest micro-batches that fit into `USABLE` of the memory.

    Raises:
        ValueError: see `check`.
    """
    check(recipe, [machine])
    share = recipe.batch_size // machine.devices
    image = image_bytes(backbone, machine.fused_attention, remat)
    usable = USABLE * machine.memory_bytes

    def state(accumulates):
        devices = machine.devices if sharded else 1
        return state_bytes(backbone, devices, accumulates) + copy_bytes(backbone, sharded)

    largest = [max(0, int((usable - state(sums)) // image)) for sums in (False, True)]
    fitting = (k for k in range(1, share + 1) if share % k == 0 and share // k <= largest[k > 1])
    parts = next(fitting, 0)
    held = state(parts != 1)
    reduction = reduce_seconds(backbone, machine.devices, machine.link_bytes_per_second, sharded)
    _, roofline_mfu = predicted_step(backbone, share // max(parts, 1), machine.device)
    return Layout(
        sharded,
        remat,
        largest[parts != 1],
        parts,
        held,
        image,
        held + (share // parts * image if parts else 0),
        parts * reduction,
        share * training_flops(backbone) * (4 / 3 if remat else 1),
        roofline_mfu,
    )


def layouts(backbone: NepaBackbone, machine: Machine, recipe: Recipe) -> list[Layout]:
    """Layouts of a training on a machine: replicated and sharded, each without and with `remat`."""
    choices = [(sharded, remat) for sharded in (False, True) for remat in (False, True)]
    return [layout(backbone, machine, recipe, *choice) for choice in choices]


def update_seconds(layout: Layout, machine: Machine, mfu: float) -> float:
    """Time of an update in seconds: FLOPs of a device / (peak * MFU), plus communication."""
    return layout.flops / (machine.device.flops_per_second * mfu) + layout.communication_seconds


def implied_mfu(backbone: NepaBackbone, machine: Machine, images_per_second: float) -> float:
    """MFU of one device at a measured rate in images/s, without `remat`."""
    return images_per_second * training_flops(backbone) / machine.device.flops_per_second


def fastest(candidates: Iterable[Layout], machine: Machine, mfu: float) -> Layout | None:
    """Layout with the shortest update among those that fit; None if none fits."""
    fitting = [candidate for candidate in candidates if candidate.parts]
    return min(fitting, key=lambda one: update_seconds(one, machine, mfu), default=None)


def checkpoint_bytes(backbone: NepaBackbone, accumulates: bool) -> int:
    """Size of a checkpoint: weights, two moments and averages (16 P), with accumulated gradients 20 P."""
    return (20 if accumulates else 16) * backbone.count_params()
