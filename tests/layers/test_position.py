"""Learned positions: added at their own grid, resized to others by a stated rule."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import nepa_keras
from nepa_keras import interop
from nepa_keras.layers import PositionEmbedding
from nepa_keras.resampling import resize_grid
from tests.helpers import tiny
from tests.helpers.gradients import loss_and_gradients
from tests.helpers.tolerances import assert_close

SIDES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3)


def table_of(grid, width=3):
    """A built layer with vectors far from 0, and these as an array."""
    layer = PositionEmbedding(grid)
    layer.build((None, 1 + np.prod(grid), width))
    layer.vectors.assign(np.random.default_rng(0).standard_normal(layer.vectors.shape))
    return layer, ops.convert_to_numpy(layer.vectors)


def test_its_own_grid_is_a_sum():
    """A shorter sequence, as in pretraining, takes the first positions."""
    layer, vectors = table_of((2, 3))
    for tokens in (7, 6, 1):
        x = tiny.images(2, (tokens, 3))
        np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), x + vectors[:, :tokens])
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.table((2, 3))), vectors)


@settings(max_examples=30, deadline=None)
@given(SIDES)
@pytest.mark.once
def test_a_constant_and_one_axis_at_a_time(sides):
    """Any number of axes: a constant stays, and variation along one axis is resized along it alone."""
    old, new = zip(*sides, strict=True)
    constant = resize_grid(np.full((np.prod(old), 2), 0.7, "float32"), old, new)
    np.testing.assert_allclose(constant, np.full((np.prod(new), 2), 0.7), rtol=1e-6)
    along = np.random.default_rng(1).standard_normal((old[0], 1)).astype("float32")
    cells = np.broadcast_to(along.reshape(-1, *[1] * (len(old) - 1)), old).reshape(-1, 1)
    expected = resize_grid(along, old[:1], new[:1]).reshape(-1, *[1] * (len(old) - 1))
    found = resize_grid(cells, old, new).reshape(new)
    np.testing.assert_allclose(found, np.broadcast_to(expected, new), atol=1e-5)


@pytest.mark.once
def test_a_ramp_stays_a_ramp():
    """Enlarged, in coordinates of the old grid; what is within two cells of a border is bent there."""
    ramp = np.arange(10, dtype="float32")[:, None]
    places = (np.arange(25) + 0.5) * 10 / 25 - 0.5
    inside = (places > 1) & (places < 8)
    assert inside.sum() > 15
    found = resize_grid(ramp, (10,), (25,))[:, 0]
    np.testing.assert_allclose(found[inside], places[inside], atol=1e-5)


@pytest.mark.only_on("torch")
@pytest.mark.parametrize("new", [(7, 9), (3, 2), (4, 11)], ids=["larger", "smaller", "both"])
def test_the_rule_is_that_of_pytorch(new):
    """Bicubic, antialias, half-pixel centres: as timm brings positions to another size."""
    import torch

    layer, vectors = table_of((5, 6))
    pictures = torch.tensor(vectors[:, 1:]).reshape(1, 5, 6, 3).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(pictures, new, mode="bicubic", antialias=True)
    expected = expected.permute(0, 2, 3, 1).reshape(1, -1, 3).numpy()
    found = ops.convert_to_numpy(layer.table(new))
    assert_close(found[:, 1:], expected, "same_numbers")
    np.testing.assert_array_equal(found[:, :1], vectors[:, :1])


def test_the_gradient_of_resized_vectors_is_the_transpose():
    layer, _ = table_of((2, 3))
    model = keras.Sequential([layer])
    x, weights = tiny.images(1, (1 + 4 * 5, 3)), tiny.images(1, (1 + 4 * 5, 3), seed=1)
    _, (gradient,) = loss_and_gradients(
        model, lambda: ops.sum(ops.multiply(layer(x, grid=(4, 5)), weights))
    )
    matrix = resize_grid(np.eye(6, dtype="float32"), (2, 3), (4, 5))  # (20, 6)
    assert_close(gradient[:, :1], weights[:, :1], "same_numbers")
    assert_close(gradient[0, 1:], matrix.T @ weights[0, 1:], "same_numbers")


WRONG = {
    "unknown size": (lambda layer, x: layer(x, grid=(None, 3)), "size of the inputs"),
    "other axes": (lambda layer, x: layer(x, grid=(6,)), "another number of axes"),
    "too many tokens": (
        lambda layer, x: layer(x, grid=(1, 3)),
        r"7 tokens, but a grid of .* has 4",
    ),
    "no grid": (lambda layer, x: PositionEmbedding((0, 3)), "at least 1"),
    "no such kind": (
        lambda layer, x: tiny.backbone(position_embedding="sine"),
        "None or \"learned\", got 'sine'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_meant_is_said(case):
    layer, _ = table_of((2, 3))
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        call(layer, tiny.images(1, (7, 3)))


def test_files_for_other_sizes(tmp_path):
    """Loaded or cloned at another size, vectors are resized as a call with such images resizes them."""
    model = tiny.pretrainer(rope_theta=None, position_embedding="learned", image_shape=(8, 12, 1))
    images = tiny.images(2, (16, 8, 1))
    expected = ops.convert_to_numpy(model.backbone(images)["sequence_output"])
    model.save_to_preset(tmp_path / "ours")
    with pytest.warns(UserWarning, match="authors' code has no learned positions"):
        interop.export_huggingface(model, tmp_path / "official")
    for folder in ("ours", "official"):
        same = nepa_keras.NepaPretrainer.from_preset(tmp_path / folder)
        tiny.assert_same_weights(same, model)
        assert not same.load_report.rules
        other = nepa_keras.NepaBackbone.from_preset(tmp_path / folder, image_size=(16, 8))
        assert other.positions.grid == (4, 2)
        assert "resize_positions" in other.load_report.rules
        found = ops.convert_to_numpy(other(images)["sequence_output"])
        assert_close(found, expected, "same_numbers", folder)
    clone = nepa_keras.clone_backbone(model.backbone, image_shape=(16, 8, 1))
    assert_close(ops.convert_to_numpy(clone(images)["sequence_output"]), expected, "same_numbers")

    with pytest.raises(ValueError, match=r'no variable; .* pass position_embedding="learned"'):
        nepa_keras.NepaBackbone.from_preset(
            tmp_path / "official", position_embedding=None, rope_theta=100.0
        )
    tiny.pretrainer().save_to_preset(tmp_path / "without")
    with pytest.raises(ValueError, match=r"lacks .*; pass position_embedding=None"):
        nepa_keras.NepaBackbone.from_preset(tmp_path / "without", position_embedding="learned")
    with pytest.raises(ValueError, match=r"more than .* parameters"):
        nepa_keras.NepaBackbone.from_preset(tmp_path / "ours", image_shape=(10**6, 10**6, 1))
