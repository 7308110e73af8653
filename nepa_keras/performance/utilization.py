"""How much of the machine training uses (MFU)."""

import math
import time

import keras
from keras import ops

from nepa_keras import backends
from nepa_keras.backbone import NepaBackbone
from nepa_keras.performance.flops import training_flops
from nepa_keras.performance.roofline import known_device


class ModelFlopsUtilization:
    """The share of the peak that so many images per second use: their `training_flops` over the peak.

    The peak is that of the data sheet (bfloat16) of a device that `known_device` knows, and of any other the
    best product that `measured_peak` finds; times the number of devices.

    Args:
        backbone: what is trained, with a backward pass through all of it; heads around it do not count.
        devices: that train. Of CPU devices that share cores each is taken for a machine.

    Example:
        >>> mfu = ModelFlopsUtilization(model.backbone)
        >>> nepa_keras.training.fit_steps(model, ..., mfu=mfu)
    """

    def __init__(self, backbone: NepaBackbone, devices: int = 1):
        sheet = known_device(backends.device_name())
        with backends.single_process():
            peak = sheet.flops_per_second if sheet else measured_peak(backbone.compute_dtype)
        self.flops, self.peak = training_flops(backbone), peak * devices

    def __call__(self, images_per_second: float) -> float:
        return images_per_second * self.flops / self.peak


def measured_peak(dtype: str = "float32", seconds: float = 0.02) -> float:
    """FLOP/s of the best of several square matrix products on the first device.

    Args:
        dtype: of the matrices.
        seconds: the matrices grow until a product takes so long.
    """
    side, best = 512, 0.0
    while True:
        x = keras.random.normal((side, side), dtype=dtype, seed=0)
        taken = math.inf
        for _ in range(4):  # the first also compiles
            started = time.perf_counter()
            ops.convert_to_numpy(ops.cast(ops.matmul(x, x)[0, 0], "float32"))  # waits for it
            taken = min(taken, time.perf_counter() - started)
        best = max(best, 2 * side**3 / taken)
        if taken >= seconds or side >= 16384:
            return best
        side *= 2
