"""Training: optimizer, schedules, averaged weights, resumable runs, validation, trackers."""

from nepa_keras.renamed import former_names
from nepa_keras.training.checkpoints import Checkpoints
from nepa_keras.training.ema import ema_weights
from nepa_keras.training.layerwise import LayerwiseWarmupCosine, LayerwiseWarmupPoly
from nepa_keras.training.model_state import CheckpointMismatchError
from nepa_keras.training.one_device import on_one_device
from nepa_keras.training.optimizer import AdamW, adamw
from nepa_keras.training.replay import Replay
from nepa_keras.training.resume import Preempted
from nepa_keras.training.run import OtherRunError, fit_steps
from nepa_keras.training.run_dir import RunDir
from nepa_keras.training.run_lock import RunLock
from nepa_keras.training.run_weights import RunWeights, find_weights
from nepa_keras.training.schedules import WarmupCosine, scaled_learning_rate
from nepa_keras.training.trackers import (
    TRACKERS,
    TensorBoardTracker,
    Tracker,
    Trackers,
    check_trackers,
    open_trackers,
)
from nepa_keras.training.validation import Validation

__all__ = [
    "TRACKERS",
    "AdamW",
    "CheckpointMismatchError",
    "Checkpoints",
    "LayerwiseWarmupCosine",
    "LayerwiseWarmupPoly",
    "OtherRunError",
    "Preempted",
    "Replay",
    "RunDir",
    "RunLock",
    "RunWeights",
    "TensorBoardTracker",
    "Tracker",
    "Trackers",
    "Validation",
    "WarmupCosine",
    "adamw",
    "check_trackers",
    "ema_weights",
    "find_weights",
    "fit_steps",
    "on_one_device",
    "open_trackers",
    "scaled_learning_rate",
]

__getattr__ = former_names(
    __name__,
    {
        "OtherModelError": "CheckpointMismatchError",
    },
)
