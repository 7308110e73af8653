"""Trackers, which record curves, pictures and tables of runs: TensorBoard, MLflow, Weights & Biases."""

from nepa_keras.training.trackers.opening import TRACKERS, Trackers, check_trackers, open_trackers
from nepa_keras.training.trackers.protocol import Tracker
from nepa_keras.training.trackers.tensorboard import TensorBoardTracker

__all__ = [
    "TRACKERS",
    "TensorBoardTracker",
    "Tracker",
    "Trackers",
    "check_trackers",
    "open_trackers",
]
