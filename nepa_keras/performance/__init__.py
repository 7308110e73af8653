"""FLOPs of a model, model FLOPs utilization (MFU), and predicted step times (roofline)."""

from nepa_keras.performance.flops import forward_flops, training_flops
from nepa_keras.performance.roofline import (
    DEVICES,
    known_device,
    predicted_step,
    roofline_table,
)
from nepa_keras.performance.utilization import ModelFlopsUtilization, measured_peak

__all__ = [
    "DEVICES",
    "ModelFlopsUtilization",
    "forward_flops",
    "known_device",
    "measured_peak",
    "predicted_step",
    "roofline_table",
    "training_flops",
]
