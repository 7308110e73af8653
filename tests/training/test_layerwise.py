"""A layer decay that moves over the run: where it begins and ends, on the host, on the device, and saved."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nepa_keras.training import LayerwiseWarmupCosine, adamw
from nepa_keras.training.groups import LayerGroup
from tests.helpers.tolerances import assert_close

STEPS, LAYERS = 2000, 12
GROUPS = [LayerGroup("", exponent) for exponent in range(LAYERS + 1)]
GROUPS.append(LayerGroup("head", 0, head=True))


def schedule(course: str = "linear", **arguments) -> LayerwiseWarmupCosine:
    arguments = {"own_warmup": False, "warmup_steps": 0, "final_layer_decay": 1.0} | arguments
    if arguments["final_layer_decay"] is not None:
        arguments["layer_decay_course"] = course
    return LayerwiseWarmupCosine(4e-3, STEPS, LAYERS, 0.35, **arguments)


def on_device(of: LayerwiseWarmupCosine, step: int) -> np.ndarray:
    return keras.ops.convert_to_numpy(of.rates(keras.ops.convert_to_tensor(step, "int32"), GROUPS))


@pytest.mark.parametrize("course", ["linear", "cosine"])
def test_it_begins_as_a_fixed_one_and_ends_at_one_rate(course):
    moving, fixed = schedule(course), schedule(final_layer_decay=None)
    first = [moving.rate_at(0, group) for group in GROUPS]
    assert first == [fixed.rate_at(0, group) for group in GROUPS]
    assert first[LAYERS] == pytest.approx(4e-3 * 0.35**LAYERS, rel=1e-12)
    assert_close(on_device(moving, 0), on_device(fixed, 0), "same_numbers")
    assert moving.layer_decay_at(STEPS // 2) == pytest.approx((0.35 + 1) / 2, rel=1e-12)
    assert moving.layer_decay_at(STEPS) == moving.layer_decay_at(9 * STEPS) == 1.0
    last = on_device(moving, STEPS - 1)
    # The last update is one step before the end, 0.65 / 2000 from 1 to the power of at most 12.
    assert last.min() / last.max() == pytest.approx(1.0, abs=12 * 0.65 / STEPS)


@settings(max_examples=40, deadline=None)
@given(step=st.integers(0, STEPS + 9), warmup=st.sampled_from([0, 100]))
def test_a_linear_course_is_the_formula_on_the_device_too(step, warmup):
    """Rate = base d^k f(t), d(t) = 0.35 + 0.65 t / T; also of a schedule that was saved."""
    moving = schedule(warmup_steps=warmup)
    decay = 0.35 + 0.65 * min(step / STEPS, 1.0)
    saved = keras.optimizers.serialize(adamw(moving))
    again = keras.optimizers.deserialize(saved).layerwise
    device = on_device(again, step)
    for group, rate in zip(GROUPS, device, strict=True):
        course = moving.rate_at(step, LayerGroup("", 0))
        expected = decay**group.exponent * course
        assert moving.rate_at(step, group) == pytest.approx(expected, rel=1e-12)
        assert again.rate_at(step, group) == moving.rate_at(step, group)
        assert_close(
            1.0 + (rate - expected) / 4e-3, 1.0, "learning_rate_in_step", f"{step} {group}"
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"course": "half"}, 'must be "cosine" or "linear", got \'half\''),
        ({"final_layer_decay": None, "layer_decay_course": "linear"}, "needs a final_layer_decay"),
        ({"final_layer_decay": 0.0}, "final_layer_decay=0.0 must be above 0"),
        ({"own_warmup": True}, "needs own_warmup=False"),
    ],
)
def test_wrong_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        schedule(**arguments)
