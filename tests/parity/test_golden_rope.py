"""The rotary tables against the official code: squares, rectangles, training-time changes."""

import keras
import numpy as np
import pytest

from nepa_keras.layers import RotaryEmbedding
from nepa_keras.layers.rotary import frequencies
from tests.helpers import golden_files
from tests.helpers.tolerances import TOLERANCES, assert_close

TABLES = golden_files.record("rope.json")["tables"]


@pytest.mark.parametrize("table", TABLES, ids=[t["name"] for t in TABLES])
def test_rotation_tables_are_those_of_the_reference(table, monkeypatch):
    """cos and sin of every patch, with the drawn shift, jitter and factor put in."""
    augment, drawn = table["augment"], table["drawn"]
    layer = RotaryEmbedding(
        table["head_dim"],
        theta=table["theta"],
        rescale=augment.get("rescale"),
        shift=augment.get("shift"),
        jitter=augment.get("jitter"),
    )
    draws = []  # in the order shift, jitter, rescale
    if "shift_yx" in drawn:
        draws.append((augment["shift"], np.array([drawn["shift_yx"]])))
    if "jitter_yx" in drawn:
        draws.append((np.log(augment["jitter"]), np.log([drawn["jitter_yx"]])))
    if "rescale" in drawn:
        draws.append((np.log(augment["rescale"]), np.log([[drawn["rescale"]]])))

    def uniform(layer, shape, limit):
        expected_limit, value = draws.pop(0)
        assert limit == pytest.approx(expected_limit)
        assert tuple(shape) == value.shape
        return keras.ops.convert_to_tensor(value, dtype="float32")

    monkeypatch.setattr(RotaryEmbedding, "_uniform", uniform)
    cos, sin = layer(grid=table["grid"], training=table["training"])
    assert not draws, "every change was drawn"
    cos, sin = keras.ops.convert_to_numpy(cos), keras.ops.convert_to_numpy(sin)
    assert cos.dtype == sin.dtype == np.float32
    assert_close(cos[1:], table["cos"], "rope", "cos")
    assert_close(sin[1:], table["sin"], "rope", "sin")
    np.testing.assert_array_equal(cos[0], 1.0, err_msg="CLS is not rotated")
    np.testing.assert_array_equal(sin[0], 0.0, err_msg="CLS is not rotated")
    np.testing.assert_allclose(
        frequencies(table["head_dim"], table["theta"]),
        table["inv_freq"],
        atol=TOLERANCES["rope"].limit,
    )


def test_distribution_of_the_rescale_factor():
    """Log-uniform in [1/2, 2], one factor for both axes, a new one in each forward pass."""
    layer = RotaryEmbedding(8, rescale=2.0, seed=3)
    plain = keras.ops.convert_to_numpy(layer.coordinates((2, 3)))
    factors = []
    for _ in range(400):
        ratio = (
            keras.ops.convert_to_numpy(layer.coordinates((2, 3), training=True))[:, 0] / plain[:, 0]
        )
        assert np.ptp(ratio) < 1e-6
        factors.append(ratio[0])
    moved = keras.ops.convert_to_numpy(layer.coordinates((2, 3), training=True))
    ratio = moved[plain != 0] / plain[plain != 0]
    assert np.ptp(ratio) < 1e-6, "y and x share the factor"
    logs = np.log2(factors)
    reference = golden_files.record("rope.json")["rescale_distribution"]
    assert -1 <= logs.min() < -0.95 and 0.95 < logs.max() <= 1
    # Four standard errors of 400 draws, with the reference's own error of 4000 well inside.
    assert abs(logs.mean() - reference["log2_mean"]) < 4 * 0.577 / 20
    assert abs(logs.std() - reference["log2_std"]) < 4 * 0.26 / 20
    assert len(set(factors)) == len(factors)
