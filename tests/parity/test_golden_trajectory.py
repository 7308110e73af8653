"""Ten steps of the official pretraining trainer, replayed through `train_on_batch`."""

import numpy as np
import pytest

import nepa_keras
from nepa_keras.training import WarmupCosine, ema_weights
from tests.helpers import golden_files
from tests.helpers.tolerances import assert_close, assert_same_tensors

pytestmark = pytest.mark.xla

STEPS = golden_files.record("trajectory/steps.json")


def compiled_model():
    hyper = STEPS["hyper"]
    model = golden_files.pretrainer("trajectory", weights=STEPS["initial_weights"])
    schedule = WarmupCosine(hyper["peak_lr"], STEPS["steps"], warmup_ratio=hyper["warmup_ratio"])
    optimizer = golden_files.optimizer(hyper, schedule)
    model.compile(optimizer=optimizer)
    return model


def batches() -> np.ndarray:
    """(steps, B, H, W, C)."""
    return golden_files.channels_last(
        golden_files.tensors("trajectory/inputs.safetensors")["pixel_values"]
    )


def norm(arrays) -> float:
    return float(np.sqrt(sum(np.sum(np.square(a, dtype="float64")) for a in arrays)))


def assert_same_rate(actual: float, expected: float, name: str = ""):
    """The device's float32 cosine near its end is a difference of close numbers: compare to the peak."""
    peak = STEPS["hyper"]["peak_lr"]
    assert_close(peak + (actual - expected), peak, "learning_rate_in_step", name)


def assert_ends_where_the_reference_ends(model):
    final = golden_files.tensors("trajectory/final.safetensors")
    average = golden_files.tensors("trajectory/ema.safetensors")
    tensors = nepa_keras.interop.official_tensors
    assert_same_tensors(tensors(model), final, "trajectory_weights")
    values = nepa_keras.interop.official_gradients(model, model.optimizer.ema_values())
    assert_same_tensors(values, average, "trajectory_weights")
    with ema_weights(model):
        assert_same_tensors(tensors(model), average, "trajectory_weights")
    assert_same_tensors(tensors(model), final, "trajectory_weights")
    assert int(model.optimizer.iterations) == STEPS["steps"]


def test_step_by_step():
    """Loss, gradient norm before clipping, rate and size of the weights after each step."""
    model = compiled_model()
    for k, (images, expected) in enumerate(zip(batches(), STEPS["per_step"], strict=True)):
        logs = model.train_on_batch(images, return_dict=True)
        assert_close(logs["loss"], expected["loss"], "trajectory_loss", f"loss of step {k}")
        assert_close(
            logs["gradient_norm"], expected["grad_norm"], "trajectory_norm", f"norm of step {k}"
        )
        assert_same_rate(logs["learning_rate"], expected["lr"], f"rate of step {k}")
        assert logs["skipped_steps"] == 0
        weights = norm(nepa_keras.interop.official_tensors(model).values())
        assert_close(weights, expected["weights_l2_after"], "trajectory_norm", f"weights, step {k}")
        average = norm(model.optimizer.ema_values())
        assert_close(average, expected["ema_l2_after"], "trajectory_norm", f"EMA, step {k}")
    assert_ends_where_the_reference_ends(model)


def test_fit_follows_the_reference_trajectory():
    """The same weights by one call of `fit` over the concatenated batches."""
    model = compiled_model()
    images = batches()
    history = model.fit(
        images.reshape(-1, *images.shape[2:]), batch_size=STEPS["batch"], shuffle=False, verbose=0
    )
    mean = np.mean([step["loss"] for step in STEPS["per_step"]])
    assert_close(history.history["loss"][0], mean, "trajectory_loss")
    assert_same_rate(history.history["learning_rate"][0], STEPS["per_step"][-1]["lr"])
    assert_ends_where_the_reference_ends(model)
