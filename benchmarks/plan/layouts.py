"""What a pretraining of ImageNet's size needs on machines that are larger than this one, computed.

With n devices, a batch of B images an update, k parts (micro-batches) of it, F matrix FLOPs an image
(`training_flops`), P parameters and U updates:

    compute    B / n  F [remat: 4/3]  /  (peak  MFU)             seconds an update
    replicated k  2 (n - 1) / n  4 P  /  link                    all-reduce of float32 gradients
    sharded    k  3 (n - 1) / n  4 P  /  link                    two all-gathers, one reduce-scatter (FSDP)
    hours      U (compute + communication) / 3600                nothing overlaps: an upper bound for that MFU
    memory     state + copies + B / (n k)  bytes of an image     see `step_memory`

The link is what a device sends while it receives as much. Latency is left out.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from nepa_keras.backbone import NepaBackbone
from nepa_keras.performance.flops import training_flops
from nepa_keras.performance.roofline import DEVICES, Device, predicted_step
from plan.step_memory import copy_bytes, image_bytes, state_bytes

USABLE = 0.8  # of a device's memory; the rest is for the runtime, work space and holes
IMAGENET_IMAGES, IMAGENET_BYTES = 1_281_167, 147.9e9  # ILSVRC2012_img_train.tar


@dataclass(frozen=True)
class Machine:
    """Equal devices, by their makers' published figures.

    Attributes:
        name: for the tables.
        device: peak and memory bandwidth.
        devices: how many.
        memory_bytes: of a device.
        link_bytes_per_second: that a device sends to the others, all links together, one direction.
        devices_per_host: that one host feeds.
        fused_attention: whether the library has fused attention there.
    """

    name: str
    device: Device
    devices: int
    memory_bytes: float
    link_bytes_per_second: float
    devices_per_host: int
    fused_attention: bool


# NVLink: 900 GB/s, both directions. ICI of a v5e chip: 400 GB/s, both directions (also published as 1 600
# Gbit/s); a slice of 8x8 has no links around the edges, which a ring needs, so half is counted there.
MACHINES = {
    "h100-8": Machine("8 x H100", DEVICES["h100"], 8, 80e9, 450e9, 8, True),
    "v5e-64": Machine("v5e-64", DEVICES["tpu_v5e"], 64, 16e9, 100e9, 8, False),
    "v5e-256": Machine("v5e-256", DEVICES["tpu_v5e"], 256, 16e9, 200e9, 8, False),
}


@dataclass(frozen=True)
class Recipe:
    """How long and how wide a run is; the default is the released scripts' pretraining of either size."""

    epochs: int = 1600
    batch_size: int = 4096
    images: int = IMAGENET_IMAGES

    @property
    def updates(self) -> int:
        """The last incomplete batch of an epoch is dropped."""
        return self.epochs * (self.images // self.batch_size)


@dataclass(frozen=True)
class Layout:
    """One way to place a training on a machine.

    Attributes:
        sharded: whether the devices share weights, gradients, moments and averages (FSDP).
        remat: whether blocks are computed again in the backward pass.
        largest_batch: images that fit into a device at once; 0 where the state alone does not.
        parts: batches of an update, one after the other (`accumulation_steps`); 0 where nothing fits.
        state_bytes: of a device, with the copies of the weights.
        image_bytes: that an image adds.
        used_bytes: of a device in a step.
        communication_seconds: of an update.
        flops: that a device computes in an update, with what `remat` repeats.
        roofline_mfu: the most that `predicted_step` allows a batch of this size; it knows fused
            attention and an optimizer of all weights only, and repeats nothing.
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
    """Refuses what cannot be divided.

    Raises:
        ValueError: an epoch is less than a batch, or the devices of a machine do not divide the batch.
    """
    if not recipe.updates:
        raise ValueError(f"{recipe.images} images are less than a batch of {recipe.batch_size}.")
    for machine in machines:
        if recipe.batch_size % machine.devices:
            raise ValueError(
                f"A batch of {recipe.batch_size} cannot be divided among the {machine.devices} devices of "
                f"{machine.name}; give a multiple."
            )


def reduce_seconds(
    backbone: NepaBackbone, devices: int, link_bytes_per_second: float, sharded: bool
) -> float:
    """Of one gradient: (3 if sharded, else 2) (n - 1) / n 4 P / link."""
    passes = 3 if sharded else 2
    return passes * (devices - 1) / devices * 4 * backbone.count_params() / link_bytes_per_second


def layout(
    backbone: NepaBackbone, machine: Machine, recipe: Recipe, sharded: bool, remat: bool
) -> Layout:
    """What the choice costs: the fewest parts whose images fit into `USABLE` of the memory.

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
    """Replicated and sharded, each without and with `remat`."""
    choices = [(sharded, remat) for sharded in (False, True) for remat in (False, True)]
    return [layout(backbone, machine, recipe, *choice) for choice in choices]


def update_seconds(layout: Layout, machine: Machine, mfu: float) -> float:
    """Of an update: FLOPs of a device / (peak MFU), then the communication."""
    return layout.flops / (machine.device.flops_per_second * mfu) + layout.communication_seconds


def implied_mfu(backbone: NepaBackbone, machine: Machine, images_per_second: float) -> float:
    """Share of the peak at a measured rate of one device, without `remat`."""
    return images_per_second * training_flops(backbone) / machine.device.flops_per_second


def fastest(candidates: Iterable[Layout], machine: Machine, mfu: float) -> Layout | None:
    """Of the layouts that fit the one with the shortest update, or None."""
    fitting = [candidate for candidate in candidates if candidate.parts]
    return min(fitting, key=lambda one: update_seconds(one, machine, mfu), default=None)


def checkpoint_bytes(backbone: NepaBackbone, accumulates: bool) -> int:
    """Of `training.checkpoints`: weights, two moments, average, sums: 16 P, or 20 P; the rest is some kB."""
    return (20 if accumulates else 16) * backbone.count_params()
