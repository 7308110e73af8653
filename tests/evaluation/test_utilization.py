"""MFU: the formula, and a peak that is measured where no data sheet is known."""

import pytest
import tiny

from nepa_keras.evaluation import ModelFlopsUtilization, training_flops


def test_the_share_is_flops_over_the_peak_of_all_devices():
    backbone = tiny.backbone()
    one, two = (ModelFlopsUtilization(backbone, devices) for devices in (1, 2))
    assert one(100.0) == pytest.approx(100.0 * training_flops(backbone) / one.peak)
    assert one.peak > 1e8 and one(100.0) == pytest.approx(2 * one(50.0))
    assert two.flops == one.flops
