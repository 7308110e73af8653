"""MFU: the formula, and a peak that is measured where no data sheet is known."""

import keras
import pytest

from nepa_keras.performance import (
    ModelFlopsUtilization,
    forward_flops,
    known_device,
    measured_peak,
    training_flops,
    utilization,
)
from tests.helpers import tiny


def test_the_share_is_flops_over_the_peak_of_all_devices(monkeypatch):
    backbone = tiny.backbone()
    monkeypatch.setattr(utilization, "measured_peak", lambda dtype: {"float32": 2e9}[dtype])
    one, two = (ModelFlopsUtilization(backbone, devices) for devices in (1, 2))
    assert one(100.0) == pytest.approx(100.0 * training_flops(backbone) / 2e9)
    assert two(100.0) == pytest.approx(one(100.0) / 2)


def test_the_data_sheet_is_taken_where_the_device_is_known(monkeypatch):
    name = "NVIDIA H100 80GB HBM3"
    monkeypatch.setattr(utilization.backends, "device_name", lambda: name)
    assert ModelFlopsUtilization(tiny.backbone()).peak == known_device(name).flops_per_second


def test_a_peak_is_measured():
    assert measured_peak(seconds=1e-4) > 1e8  # a core of 100 MFLOP/s is of the last century


def test_tokens_of_other_inputs_count():
    """The blocks of nine tokens and CLS; of the embedding nothing is known."""
    shape, layer = (9, 5), keras.layers.Dense(16)
    backbone = tiny.backbone(image_shape=shape, embedding=layer)
    tokens, dim, mlp = 10, 16, 24
    block = 2 * tokens * (4 * dim**2 + 2 * tokens * dim + 2 * dim * mlp)
    assert forward_flops(backbone) == 2 * block
