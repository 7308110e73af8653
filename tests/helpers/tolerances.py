"""The one table of tolerances, each with its reason; all for float32 on CPU.

"Noise" is what the official float32 code and a second implementation (float32 or float64) differ by,
measured when the reference numbers were made (golden/README.md). A tolerance is about ten times the
noise and well below the smallest effect of a mistake named there.
"""

from typing import NamedTuple

import numpy as np


class Tolerance(NamedTuple):
    """`limit` on the largest difference: absolute, or divided by the largest |expected| value."""

    limit: float
    relative: bool
    why: str


TOLERANCES = {
    # against the reference numbers
    "states": Tolerance(5e-5, False, "values up to 9, noise 7e-6; tanh GELU would show 7e-4"),
    "attention": Tolerance(1e-5, False, "probabilities, noise 9e-7"),
    "logits": Tolerance(3e-5, False, "noise 3e-6; CLS in the pooling would show 0.16"),
    "pretrain_loss": Tolerance(1e-6, False, "noise 6e-8; tanh GELU would show 3e-6"),
    "classify_loss": Tolerance(5e-6, False, "noise 7e-7"),
    "gradient": Tolerance(5e-5, True, "per tensor, noise 3.2e-6; no stop-gradient would show 1.7"),
    "rope": Tolerance(5e-6, False, "cos and sin tables, noise 7e-7"),
    "trajectory_loss": Tolerance(2e-5, False, "ten steps, noise 2e-6"),
    "finetune_loss": Tolerance(2e-5, False, "losses up to 5, eight steps, noise 1.1e-6"),
    "trajectory_norm": Tolerance(2e-5, True, "ten steps, noise 8e-7"),
    "trajectory_weights": Tolerance(
        2e-5, False, "ten steps, noise 2e-6; wrong decay groups would show 9e-4"
    ),
    "learning_rate": Tolerance(1e-9, True, "float64 formula; the tables hold 12 digits"),
    "learning_rate_in_step": Tolerance(
        1e-6, True, "the device holds the rate in float32: rounding 6e-8 in a few operations"
    ),
    "drop_path_rates": Tolerance(1e-7, False, "rates below 1, the table was computed in float32"),
    "folded_weights": Tolerance(1e-6, False, "one product in float32, noise 3e-8"),
    "attention_bfloat16": Tolerance(
        3e-2, False, "values up to 3, 8 bits of mantissa each for probabilities and output"
    ),
    "exact": Tolerance(0.0, False, "copied, transposed or split, never computed"),
    # between two backends: each is within its noise of the same reference, so the same limits hold
    "backends_states": Tolerance(5e-5, False, "as states"),
    "backends_gradient": Tolerance(5e-5, True, "as gradient"),
    "backends_step": Tolerance(2e-5, False, "as trajectory_weights, after one step"),
    "backends_curve": Tolerance(
        1e-4, False, "fifty steps: five times the limit of the ten-step trajectory loss"
    ),
    # within one backend: the same mathematics in another order of summation
    "same_numbers": Tolerance(
        1e-5, False, "remat, compilation and accumulation reorder float32 sums"
    ),
    "bfloat16_curve": Tolerance(
        4e-3,
        False,
        "16 updates, losses up to 1: one rounding to 8 bits, as many average out (6e-4 seen)",
    ),
    "same_bfloat16_weights": Tolerance(
        1e-3,
        False,
        "gradients of 8 bits, rounded otherwise by TensorFlow's recomputation (1e-4 seen)",
    ),
    "same_gradient": Tolerance(5e-5, True, "as gradient"),
}


def assert_close(actual, expected, kind: str, name: str = "") -> None:
    """Fail with the name, the place and the size of the largest difference above the tolerance."""
    actual, expected = np.asarray(actual, "float64"), np.asarray(expected, "float64")
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, not {expected.shape}"
    assert np.all(np.isfinite(actual)), f"{name}: not finite"
    tolerance = TOLERANCES[kind]
    difference = np.abs(actual - expected)
    if tolerance.relative:
        difference = difference / max(np.max(np.abs(expected), initial=0.0), 1e-30)
    worst = np.max(difference, initial=0.0)
    assert worst <= tolerance.limit, (
        f"{name or kind}: largest difference {worst:.3g} > {tolerance.limit:g} ({kind}"
        f"{', relative' if tolerance.relative else ''}: {tolerance.why})"
    )


def assert_same_tensors(actual: dict, expected: dict, kind: str) -> None:
    """`assert_close` for each name of two dictionaries that must have the same names."""
    assert sorted(actual) == sorted(expected), sorted(set(actual) ^ set(expected))
    for name in expected:
        assert_close(actual[name], expected[name], kind, name)
