"""Markdown tables of `layouts`: machines, time and memory of each layout, input pipeline, storage."""

from collections.abc import Iterable, Sequence

from nepa_keras.backbone import NepaBackbone
from nepa_keras.tables import markdown_table
from plan.layouts import (
    IMAGENET_BYTES,
    IMAGENET_IMAGES,
    Machine,
    Recipe,
    checkpoint_bytes,
    fastest,
    layouts,
    update_seconds,
)

_CHECKPOINTS = 10  # checkpoints per run, as in `training.fit_steps`
_CHECKPOINTS_AT_ONCE = 3  # two kept and one being written


def machines_table(machines: Sequence[Machine]) -> str:
    """Table of the manufacturers' figures used here."""
    rows = [
        (
            f"{m.name} ({m.device.name})",
            m.devices,
            f"{m.device.flops_per_second / 1e12:.0f}",
            f"{m.memory_bytes / 1e9:.0f}",
            f"{m.link_bytes_per_second / 1e9:.0f}",
            f"{m.devices // m.devices_per_host} x {m.devices_per_host}",
            "fused" if m.fused_attention else "explicit",
        )
        for m in machines
    ]
    heads = "machine", "devices", "bf16 TFLOP/s", "GB", "link GB/s", "hosts x devices", "attention"
    return markdown_table([heads, *rows])


def layouts_table(
    backbone: NepaBackbone, machines: Iterable[Machine], recipe: Recipe, mfus: Sequence[float]
) -> str:
    """Table of memory and hours of each machine, sharding and `remat`, at each MFU."""
    rows = []
    for machine in machines:
        for one in layouts(backbone, machine, recipe):
            hours = [
                f"{recipe.updates * update_seconds(one, machine, mfu) / 3600:.1f}" for mfu in mfus
            ]
            batch = recipe.batch_size // machine.devices // one.parts if one.parts else 0
            rows.append(
                (
                    machine.name,
                    "sharded" if one.sharded else "replicated",
                    "yes" if one.remat else "no",
                    f"{one.state_bytes / 1e9:.2f}",
                    f"{one.image_bytes / 1e6:.0f}",
                    one.largest_batch,
                    f"{batch} x {one.parts}" if one.parts else "does not fit",
                    f"{one.used_bytes / 1e9:.1f}",
                    f"{one.communication_seconds * 1e3:.1f}",
                    *(hours if one.parts else ["–"] * len(hours)),
                    f"{one.roofline_mfu:.0%}" if one.parts else "–",
                )
            )
    heads = [
        *("machine", "weights", "remat", "state GB", "MB per image", "images that fit"),
        *("batch x parts", "used GB", "communication ms"),
        *(f"hours at {mfu:.0%}" for mfu in mfus),
        "roofline MFU",
    ]
    return markdown_table([heads, *rows])


def input_table(
    trained: Sequence[tuple[NepaBackbone, Recipe]],
    machines: Sequence[Machine],
    mfu: float,
    images_per_core: float,
) -> str:
    """Table of the input rates that the fastest layout needs at this MFU.

    Args:
        trained: backbones with their recipes.
        machines: machines to plan for.
        mfu: assumed model FLOPs utilization.
        images_per_core: images/s that one CPU core decodes, crops and scales.
    """
    rows = []
    for backbone, recipe in trained:
        height, width, channels = backbone.image_shape
        for machine in machines:
            one = fastest(layouts(backbone, machine, recipe), machine, mfu)
            if one is None:
                continue
            seconds = update_seconds(one, machine, mfu)
            rate = recipe.batch_size / seconds
            host = rate / machine.devices * machine.devices_per_host
            rows.append(
                (
                    backbone.name,
                    machine.name,
                    f"{rate:,.0f}",
                    f"{rate / machine.devices:,.0f}",
                    f"{host / images_per_core:.1f}",
                    f"{host * IMAGENET_BYTES / IMAGENET_IMAGES / 1e6:,.0f}",
                    f"{host * 4 * height * width * channels / 1e9:.1f}",
                    f"{recipe.updates * seconds / 3600 / _CHECKPOINTS:.1f}",
                )
            )
    heads = (
        *("model", "machine", "images/s", "images/s per device", "CPU cores per host"),
        *(
            "JPEG MB/s per host",
            "float32 GB/s to the devices of a host",
            "hours between checkpoints",
        ),
    )
    return markdown_table([heads, *rows])


def storage_table(backbones: Sequence[NepaBackbone]) -> str:
    """Table of storage in GB: one checkpoint, all checkpoints at once, final files of a run, images."""
    rows = []
    for backbone in backbones:
        whole, summed = (checkpoint_bytes(backbone, sums) for sums in (False, True))
        at_once = _CHECKPOINTS_AT_ONCE * whole
        # checkpoint.keras has the size of a checkpoint, the exported averages (ema/) have 4 P.
        total = IMAGENET_BYTES + at_once + whole + whole / 4
        figures = (whole, summed, at_once, whole + whole / 4, IMAGENET_BYTES, total)
        rows.append((backbone.name, *(f"{bytes / 1e9:.1f}" for bytes in figures)))
    heads = (
        *("model, sizes in GB", "checkpoint", "checkpoint with accumulated gradients"),
        *("three checkpoints", "final files: .keras, ema/", "ImageNet JPEG files", "total"),
    )
    return markdown_table([heads, *rows])
