"""Checkpoints of two small arrays, for tests that need no model."""

import numpy as np

from nepa_keras.training.checkpoints import Checkpoints


def state(step: int) -> dict[str, np.ndarray]:
    return {"weights": np.full(1000, step, "float32"), "seed": np.array([step, 7], "int32")}


def filled(folder, steps=(3, 6), **arguments) -> Checkpoints:
    checkpoints = Checkpoints(folder, **arguments)
    for step in steps:
        checkpoints.save(step, state(step), {"best": step / 10})
    return checkpoints


def assert_newest(checkpoints: Checkpoints, step: int) -> None:
    saved = checkpoints.newest()
    assert saved.step == step and saved.record == {"best": step / 10, "step": step}
    for name, value in state(step).items():
        np.testing.assert_array_equal(saved.state[name], value)
        assert saved.state[name].dtype == value.dtype
