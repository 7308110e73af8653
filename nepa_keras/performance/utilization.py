"""Model FLOPs utilization (MFU): the fraction of the machine's peak that training uses."""

import math
import time

import keras
from keras import ops

from nepa_keras import backends
from nepa_keras.backbone import NepaBackbone
from nepa_keras.performance.flops import training_flops
from nepa_keras.performance.roofline import known_device


class ModelFlopsUtilization:
    """Convert images per second to MFU: `training_flops` per second over the peak.

    The peak is the data sheet's (bfloat16) for devices in `known_device`, otherwise the best product found by
    `measured_peak`, times the number of devices.

    Args:
        backbone: the backbone, trained completely; heads around it are not counted.
        devices: number of training devices. CPU devices that share cores count as one machine each.

    Example:
        >>> mfu = ModelFlopsUtilization(model.backbone)
        >>> 0.0 < mfu(images_per_second=100.0) < 1.0
        True
    """

    def __init__(self, backbone: NepaBackbone, devices: int = 1):
        sheet = known_device(backends.device_name())
        with backends.single_process():
            peak = sheet.flops_per_second if sheet else measured_peak(backbone.compute_dtype)
        self.flops, self.peak = training_flops(backbone), peak * devices

    def __call__(self, images_per_second: float) -> float:
        return images_per_second * self.flops / self.peak


def measured_peak(dtype: str = "float32", seconds: float = 0.02) -> float:
    """Measure the FLOP/s of square matrix products on the first device; return the best.

    Args:
        dtype: dtype of the matrices.
        seconds: matrices grow until one product takes this long.
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
