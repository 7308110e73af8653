"""Ablations: the paper's no shift, no causal mask, no stop-gradient, masking, positions (Table 1)."""

import keras
import numpy as np
import pytest
from keras import ops

import nepa_keras
from nepa_keras.clone import relative_path
from nepa_keras.training import adamw
from tests.helpers import tiny
from tests.helpers.gradients import loss_and_gradients
from tests.helpers.tolerances import assert_close


def test_without_shift_the_same_position_is_predicted():
    shifted, plain = tiny.pretrainer(), tiny.pretrainer(shift=False)
    images = tiny.images(2)
    out = ops.convert_to_numpy(plain.backbone(images)["sequence_output"])
    assert_close(ops.convert_to_numpy(plain(images)["predictions"]), out[:, 1:], "same_numbers")
    assert_close(ops.convert_to_numpy(shifted(images)["predictions"]), out[:, :-1], "same_numbers")
    targets = [ops.convert_to_numpy(m(images)["targets"]) for m in (plain, shifted)]
    np.testing.assert_array_equal(*targets)


def test_without_stop_gradient_the_loss_is_the_same_and_the_gradients_are_not():
    images = ops.convert_to_tensor(tiny.images(4))
    values, norms = [], []
    for stop in (True, False):
        model = tiny.pretrainer(stop_gradient=stop)
        value, gradients = loss_and_gradients(
            model, lambda m=model: m.compute_loss(x=images, y_pred=m(images))
        )
        values.append(value)
        norms.append([np.linalg.norm(g) for g in gradients])
    assert values[0] == values[1]
    changed = np.abs(np.subtract(*norms)) > 1e-4
    paths = [v.path for v in model.trainable_variables]
    assert [p for p, c in zip(paths, changed, strict=True) if c], "the embedding gets more gradient"
    assert all("patch_embedding" in p for p, c in zip(paths, changed, strict=True) if c)


def test_without_stop_gradient_training_collapses():
    """The loss falls to -1 and the targets lose their spread; with it they keep it."""
    spreads, losses = {}, {}
    for stop in (True, False):
        model = tiny.compiled_pretrainer(optimizer=adamw(3e-2), stop_gradient=stop)
        history = model.fit(tiny.images(16), batch_size=16, epochs=80, verbose=0).history
        spreads[stop], losses[stop] = history["target_spread"][-1], history["loss"][-1]
    assert losses[False] < -0.95 < losses[True]
    assert spreads[False] < 0.1 < spreads[True]


def test_spread_tells_collapse():
    """About 1 for independent directions, 0 when all are the same."""
    from nepa_keras.nepa import spread

    generator = np.random.default_rng(0)
    random = generator.standard_normal((16, 16, 32)).astype("float32")
    assert float(spread(ops.convert_to_tensor(random))) == pytest.approx(1.0, abs=0.02)
    same = np.abs(generator.standard_normal((16, 16, 1))) * random[:1, :1]
    assert float(spread(ops.convert_to_tensor(same.astype("float32")))) == pytest.approx(
        0, abs=1e-5
    )


def test_masking_replaces_inputs_in_training_only_and_leaves_targets_clean(monkeypatch):
    model = tiny.pretrainer(use_mask_token=True, masking_ratio=0.5)
    images = tiny.images(64)
    clean = ops.convert_to_numpy(model.backbone.embed(images))
    masked = ops.convert_to_numpy(model._mask(model.backbone.embed(images)))
    token = ops.convert_to_numpy(model.backbone.patch_embedding.mask_token)[0, 0]
    replaced = np.all(masked == token, axis=-1)
    np.testing.assert_array_equal(masked[~replaced], clean[~replaced])
    assert not replaced[:, 0].any(), "CLS stays"
    # Four standard errors of 256 draws.
    assert abs(replaced[:, 1:].mean() - 0.5) < 4 * 0.5 / 16
    assert len({tuple(row) for row in replaced}) > 4, "each sample has its own mask"

    trained, plain = model(images, training=True), model(images)
    assert_close(ops.convert_to_numpy(trained["targets"]), clean[:, 1:], "same_numbers")
    assert_close(ops.convert_to_numpy(plain["targets"]), clean[:, 1:], "same_numbers")
    difference = ops.convert_to_numpy(trained["predictions"] - plain["predictions"])
    assert np.abs(difference).max() > 0.1
    same = model(images)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(same["predictions"]), ops.convert_to_numpy(plain["predictions"])
    )
    tiny.compile_model(model, optimizer=adamw(1e-2, ema_decay=0.9))
    before = ops.convert_to_numpy(model.backbone.patch_embedding.mask_token).copy()
    model.fit(images, batch_size=32, verbose=0)
    after = ops.convert_to_numpy(model.backbone.patch_embedding.mask_token)
    assert np.any(before != after), "the mask token learns"


def test_an_unused_mask_token_and_no_causal_mask_train_too():
    model = tiny.compiled_pretrainer(use_mask_token=True, use_causal_mask=False)
    history = model.fit(tiny.images(8), batch_size=4, verbose=0).history
    assert np.isfinite(history["loss"][0]) and history["skipped_steps"] == [0.0]


@pytest.mark.parametrize("remat", [False, True])
def test_without_positions_the_order_of_patches_is_nothing(remat, tmp_path):
    """Bidirectional and rope_theta=None: patches in another order give the same outputs in that order."""
    pretrainer = tiny.pretrainer(rope_theta=None, use_causal_mask=False, remat=remat)
    backbone, images = pretrainer.backbone, tiny.images(3)
    order = np.array([2, 0, 3, 1])
    z = keras.ops.convert_to_numpy(backbone.embed(images))
    moved = np.concatenate([z[:, :1], z[:, 1:][:, order]], axis=1)
    out = keras.ops.convert_to_numpy(backbone(images)["sequence_output"])
    again = keras.ops.convert_to_numpy(backbone(images, embeddings=moved)["sequence_output"])
    assert_close(again[:, 1:], out[:, 1:][:, order], "same_numbers")
    with_positions = tiny.pretrainer(use_causal_mask=False).backbone
    other = keras.ops.convert_to_numpy(with_positions(images)["sequence_output"])
    assert np.abs(other - out).max() > 1e-2
    pretrainer.save(tmp_path / "m.keras")
    assert keras.saving.load_model(tmp_path / "m.keras").backbone.rotary is None
    tiny.compile_model(pretrainer)
    assert np.isfinite(pretrainer.fit(images, verbose=0).history["loss"]).all()
    with pytest.raises(ValueError, match="without any positions"):
        nepa_keras.interop.export_huggingface(pretrainer, tmp_path / "official")


PLAIN = {"rope_theta": None, "gated_mlp": True, "qk_norm": False, "layer_scale": None}


def test_learned_positions_are_in_the_input_and_not_in_the_target():
    """Learned positions are added to the embeddings; a masked patch keeps its position."""
    model = tiny.pretrainer(
        **PLAIN, position_embedding="learned", use_mask_token=True, masking_ratio=0.999999
    )
    learned, bare = model.backbone, tiny.backbone(**PLAIN, use_mask_token=True)
    values = {relative_path(v): v for v in learned.trainable_variables}
    table = ops.convert_to_numpy(values.pop("position_embedding/vectors"))
    for variable in bare.trainable_variables:
        variable.assign(values.pop(relative_path(variable)))
    assert not values and np.ptp(table, axis=1).min() > 0

    images = tiny.images(3)
    z = ops.convert_to_numpy(learned.embed(images))
    masked = z.copy()
    masked[:, 1:] = ops.convert_to_numpy(learned.patch_embedding.mask_token)
    for training, read in ((False, z), (True, masked)):
        out = model(images, training=training)
        expected = bare(images, embeddings=read + table)["sequence_output"][:, :-1]
        assert_close(ops.convert_to_numpy(out["targets"]), z[:, 1:], "same_numbers")
        found = ops.convert_to_numpy(out["predictions"])
        assert_close(found, ops.convert_to_numpy(expected), "same_numbers")
    found = learned.activations(images)
    assert_close(ops.convert_to_numpy(found["embeddings"]), z, "same_numbers")
    assert_close(ops.convert_to_numpy(found["hidden_states"][0]), z + table, "same_numbers")


def test_a_step_of_a_plain_vit_with_learned_positions():
    """Down the gradient the loss falls; each position has a share but that of the last patch, never read."""
    model = tiny.pretrainer(**PLAIN, position_embedding="learned")
    images = ops.convert_to_tensor(tiny.images(8))

    def loss():
        return model.compute_loss(x=images, y_pred=model(images))

    before, gradients = loss_and_gradients(model, loss)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        variable.assign(variable - 0.01 * gradient)
        if variable.path.endswith("position_embedding/vectors"):
            lengths = np.linalg.norm(gradient[0], axis=-1)
    after, _ = loss_and_gradients(model, loss)
    assert after < before
    assert lengths[:-1].min() > 1e-4 and lengths[-1] == 0.0
