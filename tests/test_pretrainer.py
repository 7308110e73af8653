"""NepaPretrainer and NepaImageClassifier in user code: fit, evaluate, save, precision, options."""

import importlib.util
import json
from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras import ops

import nepa_keras
from nepa_keras.training import WarmupCosine, adamw, ema_weights
from tests.helpers import tiny
from tests.helpers.gradients import loss_and_gradients
from tests.helpers.tolerances import assert_close

LOGS = {
    "loss",
    "gradient_norm",
    "learning_rate",
    "prediction_spread",
    "target_spread",
    "skipped_steps",
}


def compiled(seed: int = 0, optimizer=None, compile_arguments: dict | None = None, **overrides):
    """A tiny pretrainer with the recipe's optimizer."""
    model = tiny.pretrainer(seed, **overrides)
    optimizer = optimizer or adamw(1e-2, ema_decay=0.9)
    tiny.compile_model(model, optimizer, **(compile_arguments or {}))
    return model


def assert_same_weights(first, second, kind: str = "same_numbers"):
    pairs = zip(tiny.weights(first), tiny.weights(second), first.trainable_variables, strict=True)
    for a, b, variable in pairs:
        assert_close(a, b, kind, variable.path)


def plain(config: dict) -> dict:
    """A configuration as it is after a file: tuples are lists."""
    return json.loads(json.dumps(config))


# Sources of data: all that this environment can make, so that none is skipped.


def arrays(images):
    return {"x": images, "batch_size": 4, "shuffle": False}


def arrays_with_labels(images):
    return {**arrays(images), "y": np.arange(len(images))}


class Batches(keras.utils.PyDataset):
    def __init__(self, images):
        super().__init__()
        self.images = images

    def __len__(self):
        return len(self.images) // 4

    def __getitem__(self, index):
        return self.images[4 * index : 4 * index + 4]


def py_dataset(images):
    return {"x": Batches(images), "shuffle": False}


def torch_loader(images):
    import torch

    dataset = torch.utils.data.TensorDataset(torch.from_numpy(images))
    return {"x": torch.utils.data.DataLoader(dataset, batch_size=4)}


def torch_loader_with_labels(images):
    import torch

    labels = torch.arange(len(images))
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(images), labels)
    return {"x": torch.utils.data.DataLoader(dataset, batch_size=4)}


def tf_data(images):
    import tensorflow as tf

    return {"x": tf.data.Dataset.from_tensor_slices(images).batch(4)}


def tf_data_with_labels(images):
    import tensorflow as tf

    return {"x": tf.data.Dataset.from_tensor_slices((images, np.arange(len(images)))).batch(4)}


SOURCES: list[Callable] = [arrays, arrays_with_labels, py_dataset]
if importlib.util.find_spec("torch"):
    SOURCES += [torch_loader, torch_loader_with_labels]
if importlib.util.find_spec("tensorflow"):
    SOURCES += [tf_data, tf_data_with_labels]


def test_fit_gives_the_same_weights_from_every_source():
    """NumPy, PyDataset, PyTorch loaders and tf.data, with labels (ignored) and without."""
    images = tiny.images(12)
    reference = None
    for source in SOURCES:
        model = compiled()
        history = model.fit(**source(images), epochs=2, verbose=0).history
        assert set(history) == LOGS, source.__name__
        assert int(model.optimizer.iterations) == 6, source.__name__
        if reference is None:
            reference = model
        assert_same_weights(model, reference)


def test_fit_learns_and_reports():
    model = compiled(optimizer=adamw(WarmupCosine(2e-2, 30, warmup_steps=3), ema_decay=0.9))
    images = np.repeat(np.repeat(tiny.images(16, (2, 2, 1)), 4, axis=1), 4, axis=2)
    history = model.fit(
        images, batch_size=8, epochs=15, verbose=0, validation_data=(images[:8],)
    ).history
    assert set(history) == LOGS | {"val_loss", "val_prediction_spread", "val_target_spread"}
    assert history["loss"][-1] < history["loss"][0] - 0.3
    rates = [model.optimizer._learning_rate.at(step) for step in range(1, 30, 2)]
    np.testing.assert_allclose(history["learning_rate"], rates, rtol=1e-4)
    assert all(0.0 <= value <= 1.0 + 1e-6 for value in history["target_spread"])
    assert history["skipped_steps"] == [0.0] * 15


def test_evaluate_predict_and_batches():
    model = compiled()
    images = tiny.images(10)
    out = model(images)
    expected = float(nepa_keras.nepa_loss(out["predictions"], out["targets"]))
    evaluated = model.evaluate(images, batch_size=4, verbose=0)
    assert set(evaluated) == {"loss", "prediction_spread", "target_spread"}
    assert evaluated["loss"] == pytest.approx(expected, abs=1e-6), "10 is not a multiple of 4"
    predicted = model.predict(images, batch_size=4, verbose=0)
    assert set(predicted) == {"predictions", "targets"}
    for name, value in predicted.items():
        assert_close(value, ops.convert_to_numpy(out[name]), "same_numbers", name)
    tested = model.test_on_batch(images, return_dict=True)
    assert tested["loss"] == pytest.approx(expected, abs=1e-6)
    trained = model.train_on_batch(images, return_dict=True)
    assert set(trained) == LOGS
    assert trained["loss"] == pytest.approx(expected, abs=1e-6), "the loss before the update"


def test_gradient_norm_is_that_of_the_loss_before_clipping():
    model = compiled(optimizer=adamw(0.0, clip_norm=1e-3))
    images = ops.convert_to_tensor(tiny.images(4))
    _, gradients = loss_and_gradients(
        model, lambda: model.compute_loss(x=images, y_pred=model(images))
    )
    expected = np.sqrt(sum(np.sum(np.square(g)) for g in gradients))
    logs = model.train_on_batch(images, return_dict=True)
    assert logs["gradient_norm"] == pytest.approx(expected, rel=1e-5)


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


# The paper's ablations.


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
        model = compiled(optimizer=adamw(3e-2), stop_gradient=stop)
        history = model.fit(tiny.images(16), batch_size=16, epochs=80, verbose=0).history
        spreads[stop], losses[stop] = history["target_spread"][-1], history["loss"][-1]
    assert losses[False] < -0.95 < losses[True]
    assert spreads[False] < 0.1 < spreads[True]


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
    model = compiled(use_mask_token=True, use_causal_mask=False)
    history = model.fit(tiny.images(8), batch_size=4, verbose=0).history
    assert np.isfinite(history["loss"][0]) and history["skipped_steps"] == [0.0]


def test_random_parts_draw_anew_in_every_step_of_a_compiled_fit():
    """The rescale factor must not be frozen into the compiled step."""
    model = compiled(optimizer=adamw(0.0), rope_rescale=2.0, drop_path_rate=0.3)
    history = model.fit(tiny.images(4), batch_size=4, epochs=5, verbose=0).history
    assert len(set(history["loss"])) == 5


# Options of the step.


def test_gradient_accumulation_equals_the_big_batch():
    """Four batches of 2 make the update of one batch of 8: weights, average, step count."""
    big, small = compiled(), compiled(optimizer=adamw(1e-2, ema_decay=0.9, accumulation_steps=4))
    images = tiny.images(24)
    for model, batch_size in ((big, 8), (small, 2)):
        model.fit(images, batch_size=batch_size, shuffle=False, verbose=0)
        assert int(model.optimizer.iterations) == 3
    assert_same_weights(big, small)
    for a, b in zip(big.optimizer.ema_values(), small.optimizer.ema_values(), strict=True):
        assert_close(a, b, "same_numbers")


def test_accumulated_batches_do_not_move_the_weights_before_the_last():
    model = compiled(optimizer=adamw(1e-2, accumulation_steps=3))
    before = tiny.weights(model)
    for step in range(3):
        model.train_on_batch(tiny.images(2, seed=step))
        moved = any(np.any(a != b) for a, b in zip(before, tiny.weights(model), strict=True))
        assert moved == (step == 2)


@pytest.mark.xla
def test_compiled_and_eager_agree():
    models = []
    for jit_compile in (False, True):
        arguments = {"jit_compile": jit_compile}
        models.append(compiled(compile_arguments=arguments, gated_mlp=True, num_layers=1))
        models[-1].fit(tiny.images(8), batch_size=4, shuffle=False, verbose=0)
    assert_same_weights(*models)


def test_run_eagerly():
    model = compiled(compile_arguments={"run_eagerly": True})
    model.fit(tiny.images(12), batch_size=4, shuffle=False, verbose=0)
    other = compiled()
    other.fit(tiny.images(12), batch_size=4, shuffle=False, verbose=0)
    assert_same_weights(model, other)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_remat_changes_no_number(policy):
    """Same states and, through the recomputed backward pass, same weights after training.

    With SGD, as Adam's first steps are by the sign of a gradient, also of one that is nearly 0.
    """
    models = [
        compiled(remat=remat, dtype=policy, optimizer=keras.optimizers.SGD(0.1))
        for remat in (False, True)
    ]
    images = tiny.images(12)
    outs = [ops.convert_to_numpy(m(images, training=True)["predictions"]) for m in models]
    assert_close(outs[1], outs[0], "same_numbers")
    for model in models:
        model.fit(images, batch_size=4, shuffle=False, verbose=0)
    kind = "same_numbers" if policy == "float32" else "same_bfloat16_weights"
    assert_same_weights(*models, kind)


def test_remat_draws_the_same_random_numbers_twice():
    """With drop path the recomputed forward must be the first one, or gradients are wrong."""
    model = compiled(optimizer=adamw(0.0), remat=True, drop_path_rate=0.5)
    plain = compiled(optimizer=adamw(0.0), remat=False, drop_path_rate=0.5)
    for each in (model, plain):
        for i, block in enumerate(each.backbone.blocks[1:]):
            for j, drop in enumerate((block.attention_drop, block.mlp_drop)):
                drop.seed_generator.state.assign([7 + i, j])
    logs = [m.train_on_batch(tiny.images(8), return_dict=True) for m in (model, plain)]
    assert logs[0]["loss"] == pytest.approx(logs[1]["loss"], abs=1e-5)
    assert logs[0]["gradient_norm"] == pytest.approx(logs[1]["gradient_norm"], rel=1e-4)


def test_steps_per_execution():
    """Several steps in one call give the same weights; Keras refuses it on PyTorch."""
    if keras.backend.backend() == "torch":
        with pytest.raises(ValueError, match="steps_per_execution"):
            model = compiled(compile_arguments={"steps_per_execution": 3})
            model.fit(tiny.images(12), batch_size=4, verbose=0)
        return
    models = []
    for steps in (1, 3):
        models.append(compiled(compile_arguments={"steps_per_execution": steps}))
        models[-1].fit(tiny.images(12), batch_size=4, shuffle=False, verbose=0)
        assert int(models[-1].optimizer.iterations) == 3
    assert_same_weights(*models)


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
def test_any_keras_optimizer(name):
    model = compiled(optimizer=keras.optimizers.get(name))
    before = tiny.weights(model)
    history = model.fit(tiny.images(8), batch_size=4, verbose=0).history
    assert set(history) == LOGS and np.isfinite(history["gradient_norm"][0])
    assert any(np.any(a != b) for a, b in zip(before, tiny.weights(model), strict=True))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains(policy):
    """Weights, embeddings, outputs and loss stay float32; the loss is near that of float32."""
    exact, model = compiled(), compiled(dtype=policy)
    assert model.dtype_policy.name == policy
    for variable in model.trainable_variables:
        assert variable.dtype == "float32", variable.path
    images = tiny.images(16)
    out = model.backbone(images)
    for name, value in out.items():
        assert keras.backend.standardize_dtype(value.dtype) == "float32", name
    before = tiny.weights(model)
    history = model.fit(images, batch_size=8, epochs=8, shuffle=False, verbose=0).history
    reference = exact.fit(images, batch_size=8, epochs=8, shuffle=False, verbose=0).history
    assert np.all(np.isfinite(history["loss"]))
    assert history["loss"][-1] < history["loss"][0] - 0.05
    assert_close(history["loss"], reference["loss"], "bfloat16_curve")
    # bfloat16 keeps 8 bits; the norm shown is that of the loss, whatever the loss scale.
    np.testing.assert_allclose(history["gradient_norm"], reference["gradient_norm"], rtol=0.2)
    assert any(np.any(a != b) for a, b in zip(before, tiny.weights(model), strict=True))


def test_what_saves_memory_together_trains_as_float32_does():
    """bfloat16, remat and half batches: the updates of whole batches in float32, but for rounding."""
    exact = compiled()
    optimizer = adamw(1e-2, ema_decay=0.9, accumulation_steps=2)
    small = compiled(dtype="mixed_bfloat16", remat=True, optimizer=optimizer)
    images, losses = tiny.images(16), []
    for model, batch_size in ((exact, 8), (small, 4)):
        history = model.fit(images, batch_size=batch_size, epochs=8, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
        assert int(model.optimizer.iterations) == 16
    assert_close(losses[1], losses[0], "bfloat16_curve")


def test_float16_scales_the_loss_and_recovers_from_an_overflow():
    """A scale too large is halved by each skipped step until the gradients are finite."""
    model = compiled(dtype="mixed_float16")
    start = float(model.optimizer.loss_scale)
    assert start > 1.0
    model.train_on_batch(tiny.images(4))
    model.optimizer.loss_scale.assign(2.0**30)
    skipped = 0.0
    for seed in range(30):
        logs = model.train_on_batch(tiny.images(4, seed=seed), return_dict=True)
        skipped += logs["skipped_steps"]
    assert 0 < skipped < 25
    assert float(model.optimizer.loss_scale) == 2.0 ** (30 - skipped)
    assert int(model.optimizer.iterations) == 31 - skipped
    assert all(np.all(np.isfinite(w)) for w in tiny.weights(model))


def test_float32_and_bfloat16_do_not_scale_the_loss():
    for policy in ("float32", "mixed_bfloat16"):
        assert compiled(dtype=policy).optimizer.loss_scale is None


# Saving.


@pytest.mark.parametrize("extra", [{}, {"accumulation_steps": 2}])
def test_save_and_load_continue_the_same_run(tmp_path, extra):
    """Model, optimizer, schedule position and average: three more steps are the same."""
    optimizer = adamw(WarmupCosine(1e-2, 20, warmup_steps=2), ema_decay=0.9, **extra)
    model = compiled(
        optimizer=optimizer,
        gated_mlp=True,
        qk_norm_scale=True,
        use_mask_token=True,
    )
    images = tiny.images(12)
    model.fit(images, batch_size=4, shuffle=False, verbose=0)
    path = tmp_path / "model.keras"
    model.save(path)
    again = keras.saving.load_model(path)
    assert type(again) is nepa_keras.NepaPretrainer
    assert plain(again.get_config()) == plain(model.get_config())
    assert plain(again.optimizer.get_config()) == plain(model.optimizer.get_config())
    assert_same_weights(again, model)
    for a, b in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(b), ops.convert_to_numpy(a), a.path)
    for each in (model, again):
        each.fit(images, batch_size=4, shuffle=False, verbose=0)
    assert_same_weights(again, model)
    for a, b in zip(model.optimizer.ema_values(), again.optimizer.ema_values(), strict=True):
        assert_close(b, a, "same_numbers")
    with ema_weights(again):
        assert (
            again.evaluate(images, verbose=0)["loss"] != model.evaluate(images, verbose=0)["loss"]
        )


def test_save_and_load_every_argument(tmp_path):
    """Every argument of the three models survives, also those off their default."""
    backbone = nepa_keras.NepaBackbone(
        image_shape=(8, 12, 2),
        patch_size=4,
        hidden_dim=16,
        num_layers=2,
        num_heads=2,
        mlp_dim=24,
        gated_mlp=True,
        activation="gelu",
        qkv_bias=False,
        qk_norm=True,
        qk_norm_scale=True,
        qk_norm_bias=True,
        layer_scale=None,
        drop_path_rate=0.1,
        dropout_rate=0.1,
        attention_dropout_rate=0.1,
        use_causal_mask=False,
        use_mask_token=True,
        rope_theta=50.0,
        rope_rescale=None,
        rope_shift=0.1,
        rope_jitter=1.5,
        layer_norm_epsilon=1e-6,
        remat=True,
    )
    images = tiny.images(2, (8, 12, 2))
    models = {
        "backbone": backbone,
        "pretrainer": nepa_keras.NepaPretrainer(
            backbone, shift=False, stop_gradient=False, masking_ratio=0.5
        ),
        "classifier": nepa_keras.NepaImageClassifier(
            backbone, 5, pooling="last", use_causal_mask=True
        ),
    }
    for name, model in models.items():
        tiny.spread_weights(model)
        model.save(tmp_path / f"{name}.keras")
        again = keras.saving.load_model(tmp_path / f"{name}.keras")
        assert plain(again.get_config()) == plain(model.get_config()), name
        expected, found = model.predict(images, verbose=0), again.predict(images, verbose=0)
        keras.tree.map_structure(lambda a, b: assert_close(b, a, "same_numbers"), expected, found)


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
    with pytest.raises(ValueError, match="no model without RoPE"):
        nepa_keras.interop.export_huggingface(pretrainer, tmp_path / "official")


def test_weights_file_round_trip(tmp_path):
    first, second = tiny.pretrainer(seed=1), tiny.pretrainer(seed=2)
    first.save_weights(tmp_path / "w.weights.h5")
    second.load_weights(tmp_path / "w.weights.h5")
    assert_same_weights(second, first)


def test_mixed_precision_survives_saving(tmp_path):
    model = tiny.pretrainer(dtype="mixed_bfloat16")
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.dtype_policy.name == again.backbone.dtype_policy.name == "mixed_bfloat16"
    assert again.backbone.blocks[0].mlp.dtype_policy.name == "mixed_bfloat16"


# Sizes, presets, clones.


@pytest.mark.parametrize(
    ("preset", "count"),
    [("nepa_base_patch14_224", 85_527_552), ("nepa_large_patch14_224", 302_967_808)],
)
def test_parameter_counts_of_the_published_models(preset, count, zero_initial_weights):
    backbone = nepa_keras.NepaBackbone.from_preset(preset, load_weights=False)
    model = nepa_keras.NepaPretrainer(backbone)
    assert model.count_params() == count
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == count


@pytest.mark.parametrize("preset", nepa_keras.PRESETS)
def test_every_preset_runs_at_reduced_depth(preset):
    """Each named architecture makes a model that takes its images; two layers, to be quick."""
    backbone = nepa_keras.NepaBackbone.from_preset(
        preset, load_weights=False, num_layers=2, hidden_dim=32, num_heads=2, mlp_dim=32
    )
    size, _, channels = backbone.image_shape
    patch = nepa_keras.PRESETS[preset].get("patch_size", 14)
    out = backbone(np.zeros((1, *backbone.image_shape), "float32"))
    assert out["sequence_output"].shape == (1, 1 + (size // patch) ** 2, 32)
    assert f"patch{patch}_{size}" in preset and channels in (1, 3)


def test_clone_keeps_weights_and_is_independent():
    backbone = tiny.pretrainer(use_mask_token=True).backbone
    clone = nepa_keras.clone_backbone(
        backbone,
        use_causal_mask=False,
        drop_path_rate=0.2,
        qk_norm_scale=True,
        use_mask_token=False,
    )
    images = tiny.images(2)
    expected = ops.convert_to_numpy(backbone(images, causal=False)["sequence_output"])
    assert_close(ops.convert_to_numpy(clone(images)["sequence_output"]), expected, "same_numbers")
    for variable in clone.trainable_variables:
        variable.assign(variable * 0.0)
    unchanged = ops.convert_to_numpy(backbone(images, causal=False)["sequence_output"])
    np.testing.assert_array_equal(unchanged, expected)


# Fine-tuning.


def test_classifier_fine_tunes_with_plain_compile_and_fit():
    """A separable toy: the mean of the image decides the class."""
    generator = np.random.default_rng(0)
    labels = np.arange(24) % 3
    images = (labels - 1.0)[:, None, None, None] + 0.3 * generator.standard_normal((24, 8, 8, 1))
    model = nepa_keras.NepaImageClassifier(tiny.pretrainer().backbone, num_classes=3)
    np.testing.assert_array_equal(ops.convert_to_numpy(model(images[:2])), 0.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    tiny.compile_model(model, optimizer=adamw(1e-2, beta_2=0.999), loss=loss, metrics=["accuracy"])
    backbone_before = tiny.weights(model.backbone)
    history = model.fit(images, labels, batch_size=8, epochs=15, verbose=0).history
    assert {"loss", "accuracy", "gradient_norm", "learning_rate", "skipped_steps"} == set(history)
    result = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert set(result) == {"loss", "accuracy"} and result["accuracy"] > 0.9
    assert any(
        np.any(a != b) for a, b in zip(backbone_before, tiny.weights(model.backbone), strict=True)
    )


def test_classifier_with_sample_weights_and_a_frozen_backbone():
    """A weight of 0 takes an example out; what is not trainable stays."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    images, labels = tiny.images(8), np.arange(8) % 3
    trained = []
    for x, y, w in (
        (images, labels, np.array([1.0] * 4 + [0.0] * 4, "float32")),
        (
            np.concatenate([images[:4], -images[4:]]),
            labels,
            np.array([1.0] * 4 + [0.0] * 4, "float32"),
        ),
    ):
        model = nepa_keras.NepaImageClassifier(tiny.pretrainer().backbone, num_classes=3)
        model.backbone.trainable = False
        tiny.compile_model(model, optimizer=adamw(1e-2), loss=loss)
        frozen = [np.array(ops.convert_to_numpy(v)) for v in model.backbone.weights]
        model.fit(x, y, sample_weight=w, batch_size=8, verbose=0)
        for before, variable in zip(frozen, model.backbone.weights, strict=True):
            if "seed" not in variable.path:
                np.testing.assert_array_equal(ops.convert_to_numpy(variable), before)
        assert len(model.trainable_variables) == 4
        trained.append(model)
    assert_same_weights(*trained)
