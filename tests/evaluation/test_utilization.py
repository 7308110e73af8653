"""MFU: the formula, and the peak that is measured where no data sheet is known."""

import time

import keras
import pytest
import tiny
from keras import ops

from nepa_keras.evaluation import ModelFlopsUtilization, measured_peak, training_flops


def test_the_share_is_flops_over_the_peak_of_all_devices():
    backbone = tiny.backbone()
    one, two = (ModelFlopsUtilization(backbone, devices) for devices in (1, 2))
    assert one(100.0) == pytest.approx(100.0 * training_flops(backbone) / one.peak)
    assert one.peak > 1e8 and one(100.0) == pytest.approx(2 * one(50.0))
    assert two.flops == one.flops


def test_the_peak_is_not_below_what_a_product_reaches():
    """A product of the size that it may use is not faster by more than this machine's noise."""
    peak = measured_peak(seconds=0.01)
    x = keras.random.normal((1024, 1024), seed=0)
    ops.convert_to_numpy(ops.matmul(x, x)[0, 0])
    started = time.perf_counter()
    ops.convert_to_numpy(ops.matmul(x, x)[0, 0])
    reached = 2 * 1024**3 / (time.perf_counter() - started)
    assert reached < 10 * peak
