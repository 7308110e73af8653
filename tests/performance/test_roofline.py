"""The bound of a training step on a device."""

import pytest

from nepa_keras.performance import (
    DEVICES,
    known_device,
    predicted_step,
    roofline_table,
    training_flops,
)
from nepa_keras.performance.roofline import Device, step_parts
from tests.helpers import tiny

pytestmark = pytest.mark.once


@pytest.mark.parametrize("gated_mlp", [False, True])
def test_flops_are_those_of_the_model(gated_mlp):
    backbone = tiny.backbone(gated_mlp=gated_mlp)
    assert sum(part.flops for part in step_parts(backbone, 3)) == 3 * training_flops(backbone)


def test_each_part_is_bound_by_the_slower_resource():
    backbone = tiny.backbone()
    flops = training_flops(backbone) * 4
    no_traffic = Device("all arithmetic", 1e9, 1e30)
    seconds, mfu = predicted_step(backbone, 4, no_traffic)
    assert seconds == pytest.approx(flops / 1e9) and mfu == pytest.approx(1.0)
    no_arithmetic = Device("all memory", 1e30, 1e9)
    seconds, _ = predicted_step(backbone, 4, no_arithmetic)
    assert seconds == pytest.approx(sum(part.bytes for part in step_parts(backbone, 4)) / 1e9)


def test_a_larger_batch_amortises_the_optimizer():
    """Time grows less than linearly, and by less the larger the batch."""
    backbone, device = tiny.backbone(), DEVICES["h100"]
    per_image = [predicted_step(backbone, batch, device)[0] / batch for batch in (1, 8, 64)]
    assert per_image[0] > per_image[1] > per_image[2]
    table = roofline_table(backbone, 8, device)
    assert all(part.name in table for part in step_parts(backbone, 8))
    assert "MFU" in table.splitlines()[-1]


def test_a_device_is_known_by_its_exact_name_only():
    assert known_device("NVIDIA H100 80GB HBM3") is DEVICES["h100"]
    for other in ("NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA H200", "cpu"):
        assert known_device(other) is None
