"""Layer decay with BEiT's ids over warm-up and polynomial, in the formula and in the optimizer's step."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nepa_keras
from nepa_keras import training
from tests.helpers import tiny


def test_layer_ids_are_those_of_beit():
    """Embedding 0, block i is i + 1, everything else L + 1; the factor is decay^(L + 1 - id)."""
    schedule = training.LayerwiseWarmupPoly(1.0, 100, 12, 0.65, 10)
    paths = {
        "nepa_backbone/patch_embedding/kernel": 0,
        "nepa_backbone/patch_embedding/cls_token": 0,
        "nepa_backbone/position_embedding/vectors": 0,
        "nepa_backbone/block_0/mlp/up/kernel": 1,
        "nepa_backbone/block_11/attention/qkv/bias": 12,
        "nepa_backbone/norm/gamma": 13,
        "decode_head/pool_1/conv/kernel": 13,
        "pyramid/double/kernel": 13,
        "auxiliary_head/classifier/bias": 13,
    }
    for path, number in paths.items():
        rate = schedule.rate_at(10, schedule.layer_group(path))
        assert rate == pytest.approx(0.65 ** (13 - number)), path


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 220), st.sampled_from([0.9, 1.0, 2.0]))
def test_the_course_is_the_formula_on_the_device_too(step, power):
    schedule = training.LayerwiseWarmupPoly(3e-4, 200, 2, 0.5, 40, 1e-6, power)
    expected = 3e-4 * (
        1e-6 + (1 - 1e-6) * step / 40 if step < 40 else (1 - min((step - 40) / 160, 1)) ** power
    )
    groups = [
        schedule.layer_group(p) for p in ("x/patch_embedding/kernel", "x/block_1/a", "head/b")
    ]
    rates = keras.ops.convert_to_numpy(schedule.rates(step, groups))
    for group, rate, factor in zip(groups, rates, (0.125, 0.5, 1.0), strict=True):
        assert schedule.rate_at(step, group) == pytest.approx(factor * expected, rel=1e-9)
        assert rate == pytest.approx(factor * expected, rel=1e-5, abs=1e-12)


def test_the_optimizer_moves_each_layer_group_at_its_rate():
    """The first step of Adam without decay moves every weight by its rate, up to epsilon."""
    keras.utils.set_random_seed(0)
    model = nepa_keras.NepaImageSegmenter(tiny.backbone(), 3, channels=8, dropout=0.0)
    tiny.spread_weights(model)
    schedule = training.LayerwiseWarmupPoly(1e-3, 100, 2, 0.5, warmup_steps=0)
    tiny.compile_model(
        model, training.adamw(schedule, weight_decay=0.0, clip_norm=None, ema_decay=None)
    )
    before = dict(
        zip([v.path for v in model.trainable_variables], tiny.weights(model), strict=True)
    )
    labels, seen = np.random.default_rng(0).integers(0, 3, (4, 8, 8)), set()
    model.fit(tiny.images(4), labels, batch_size=4, verbose=0)
    for variable in model.trainable_variables:
        moved = np.abs(keras.ops.convert_to_numpy(variable) - before[variable.path])
        group = schedule.layer_group(variable.path)
        rate, large = schedule.rate_at(0, group), np.quantile(moved, 0.9)
        if large > 0.5 * rate:  # where gradients are far above epsilon
            # Within the rounding of weights near 1.
            assert large == pytest.approx(rate, rel=1e-2), variable.path
            seen.add(group.name)
    assert seen == {"embedding", "block 0", "block 1", "heads"}
    table = model.optimizer.table(model)
    assert "heads matrices" in table and "statistics" in table and "frozen" not in table
    assert f"{model.count_params():,}" in table.splitlines()[-1]


def test_config_round_trip_and_wrong_settings():
    schedule = training.LayerwiseWarmupPoly(1e-4, 500, 4, 0.7, 20, 1e-5, 0.9)
    again = training.LayerwiseWarmupPoly.from_config(schedule.get_config())
    assert again.get_config() == schedule.get_config()
    with pytest.raises(ValueError, match="does not fit into 10"):
        training.LayerwiseWarmupPoly(1e-4, 10, 4, warmup_steps=20)
    with pytest.raises(ValueError, match="layer_decay=0 must be above 0"):
        training.LayerwiseWarmupPoly(1e-4, 10, 4, 0, 2)
