"""Habits of Keras users, tried with each of our models: they work, or are refused in one sentence."""

import keras
import numpy as np
import pytest

import nepa_keras
from nepa_keras.training import WarmupCosine, adamw
from tests.helpers import tiny

backend = keras.backend.backend()
KINDS = ("pretrainer", "classifier", "segmenter")
IMAGES = tiny.images(12)
LABELS = np.arange(12) % 3
MASKS = np.random.default_rng(0).integers(0, 3, (12, 8, 8)).astype("uint8")
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def uncompiled(kind: str, **overrides) -> keras.Model:
    backbone = tiny.backbone(**overrides)
    if kind == "pretrainer":
        model = nepa_keras.NepaPretrainer(backbone, seed=1)
    elif kind == "classifier":
        model = nepa_keras.NepaImageClassifier(backbone, 3)
    elif kind == "segmenter":
        model = nepa_keras.NepaImageSegmenter(backbone, 3, head="linear")
    elif kind == "upernet":
        model = nepa_keras.NepaImageSegmenter(backbone, 3, taps=(0, 0, 1, 1), channels=4)
    else:
        model = backbone
    tiny.spread_weights(model)
    return model


def compiled(kind: str, optimizer=None, **overrides) -> keras.Model:
    model = uncompiled(kind, **overrides)
    loss = {"loss": CROSS_ENTROPY, "metrics": ["accuracy"]} if kind == "classifier" else {}
    tiny.compile_model(model, optimizer or adamw(1e-3, ema_decay=0.9), **loss)
    return model


def data(kind: str) -> tuple:
    return {"pretrainer": (IMAGES,), "classifier": (IMAGES, LABELS)}.get(kind, (IMAGES, MASKS))


def flat(outputs) -> np.ndarray:
    return np.concatenate([tiny.float_of(x).ravel() for x in keras.tree.flatten(outputs)])


# A classifier on each backend, and the others where they cost least: Keras calls the same code for all.
@pytest.fixture(
    params=[
        "classifier",
        *(
            pytest.param(x, marks=pytest.mark.first_on("torch"))
            for x in ("pretrainer", "segmenter")
        ),
    ]
)
def kind(request) -> str:
    return request.param


every_model = pytest.mark.parametrize("kind", ["backbone", *KINDS, "upernet"])


def test_compile_takes_its_arguments_in_the_order_of_keras():
    model = uncompiled("classifier")
    model.compile("sgd", CROSS_ENTROPY, None, ["accuracy"])
    assert "accuracy" in model.evaluate(IMAGES, LABELS, verbose=0, return_dict=True)
    with pytest.raises(ValueError, match="pass metrics by name"):
        model.compile("sgd", CROSS_ENTROPY, ["accuracy"])


@pytest.mark.parametrize("kind", ["pretrainer", "segmenter"])
def test_losses_and_weights_that_would_be_ignored_are_refused(kind):
    with pytest.raises(ValueError, match=r"has its own loss.*leave out loss\."):
        uncompiled(kind).compile(optimizer="sgd", loss="mse")
    model = compiled(kind)
    x, *y = data(kind)
    y = y or [LABELS]
    weights = np.ones(len(x), "float32")
    for use in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match="leave out sample_weight"):
            use(x, *y, sample_weight=weights, verbose=0)
    with pytest.raises(ValueError, match="leave out sample_weight"):
        model.train_on_batch(x, *y, sample_weight=weights)
    with pytest.raises(ValueError, match="leave out class_weight"):
        model.fit(x, *y, class_weight={0: 1.0, 1: 2.0, 2: 1.0}, verbose=0)
    model.fit(x, *y, verbose=0)  # it can be used on


def test_metrics_of_a_pretrainer_are_refused():
    with pytest.raises(ValueError, match="reports its own metrics"):
        uncompiled("pretrainer").compile(optimizer="sgd", metrics=["accuracy"])


def test_weights_of_a_classifier_count_as_in_keras():
    model = compiled("classifier")
    logits = np.float64(model.predict(IMAGES, verbose=0))
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(12), LABELS]
    of_class = {0: 1.0, 1: 5.0, 2: 0.5}
    of_image = np.array([of_class[label] for label in LABELS], "float32")
    expected = np.mean(losses * of_image)
    for weights in ({"class_weight": of_class}, {"sample_weight": of_image}):
        model = compiled("classifier")
        loss = model.fit(IMAGES, LABELS, batch_size=12, verbose=0, **weights).history["loss"][0]
        assert loss == pytest.approx(expected, rel=1e-5)


def batches(size: int = 5):
    for i in range(0, len(IMAGES), size):
        yield IMAGES[i : i + size]


@every_model
def test_predict_takes_a_generator_of_arrays(kind):
    model = uncompiled(kind)
    expected = flat(model.predict(IMAGES, batch_size=5, verbose=0))
    found = model.predict(batches(), verbose=0)
    np.testing.assert_allclose(flat(found), expected, atol=1e-5)
    found = model.predict(map(np.copy, batches()), verbose=0)
    np.testing.assert_allclose(flat(found), expected, atol=1e-5)


def test_a_pretrainer_takes_generators_of_arrays():
    model, other = compiled("pretrainer"), compiled("pretrainer")
    model.fit(batches(4), verbose=0)
    other.fit(IMAGES, batch_size=4, shuffle=False, verbose=0)
    tiny.assert_same_weights(model, other)
    loss = other.evaluate(IMAGES, verbose=0)["loss"]
    assert other.evaluate(batches(4), verbose=0)["loss"] == pytest.approx(loss, abs=1e-5)


@every_model
def test_lists_and_no_images_are_refused(kind):
    with pytest.raises(ValueError, match=r"pass np\.stack\(x\)"):
        uncompiled(kind).predict(list(IMAGES), verbose=0)
    with pytest.raises(ValueError, match="no images"):
        uncompiled(kind).predict(IMAGES[:0], verbose=0)


@every_model
def test_models_are_parts_of_models_with_images_of_any_size(kind):
    model = uncompiled(kind)
    x = keras.Input((None, None, 1))
    functional = keras.Model(x, model(x))
    for shape in ((8, 8, 1), (12, 16, 1)):
        images = tiny.images(2, shape)
        if backend == "tensorflow" and kind in ("segmenter", "upernet") and shape != (8, 8, 1):
            with pytest.raises(ValueError, match="size of the images"):
                functional.predict(images, verbose=0)
            continue
        expected = flat(model.predict(images, verbose=0))
        found = flat(functional.predict(images, verbose=0))
        np.testing.assert_allclose(found, expected, atol=1e-5)
    sequential = keras.Sequential([keras.Input((8, 8, 1)), model])
    images = tiny.images(2)
    expected = flat(model.predict(images, verbose=0))
    np.testing.assert_allclose(flat(sequential.predict(images, verbose=0)), expected, atol=1e-5)


@every_model
def test_input_and_output_are_those_of_a_functional_model(kind):
    model = uncompiled(kind)
    assert {"input", "output", "inputs", "outputs"}.isdisjoint(dir(model)), "saving reads these"
    assert tuple(model.input.shape) == (None, 8, 8, 1) and model.inputs == [model.input]
    functional = keras.Model(model.input, model.output)
    assert len(functional.outputs) == len(model.outputs)
    found, expected = (m.predict(IMAGES, verbose=0) for m in (functional, model))
    keras.tree.assert_same_structure(found, expected)
    np.testing.assert_allclose(flat(found), flat(expected), atol=1e-5)


@every_model
def test_a_summary_has_all_shapes(kind):
    lines: list[str] = []
    model = uncompiled(kind)
    model.summary(print_fn=lines.append, expand_nested=True, line_length=160)
    text = "\n".join(lines)
    assert "?" not in text and "unbuilt" not in text, text
    assert model.count_params() == sum(np.prod(v.shape) for v in model.weights)


@every_model
def test_copies_by_configuration_and_weights(kind):
    model = uncompiled(kind)
    expected = flat(model.predict(IMAGES, verbose=0))
    for copy in (keras.models.clone_model(model), type(model).from_config(model.get_config())):
        copy.set_weights(model.get_weights())
        np.testing.assert_allclose(flat(copy.predict(IMAGES, verbose=0)), expected, atol=1e-6)


@every_model
def test_trainable_is_unset_and_set(kind):
    model = uncompiled(kind)
    count = len(model.trainable_variables)
    model.trainable = False
    assert not model.trainable_variables
    model.trainable = True
    assert len(model.trainable_variables) == count


def test_models_that_share_a_backbone_share_its_weights_and_what_is_frozen():
    backbone = tiny.backbone()
    pretrainer = nepa_keras.NepaPretrainer(backbone)
    classifier = nepa_keras.NepaImageClassifier(backbone, 3)
    tiny.compile_model(pretrainer, adamw(1e-3))
    pretrainer.fit(IMAGES, verbose=0)
    backbone.trainable = False
    assert len(classifier.trainable_variables) == 4, "those of the head and its norm"
    tiny.compile_model(classifier, adamw(1e-2), loss=CROSS_ENTROPY)
    before = [tiny.float_of(v) for v in backbone.weights]
    classifier.fit(IMAGES, LABELS, verbose=0)
    for old, variable in zip(before, backbone.weights, strict=True):
        if "seed_generator" not in variable.path:
            np.testing.assert_array_equal(old, tiny.float_of(variable), variable.path)
    tiny.compile_model(pretrainer, adamw(1e-3))
    with pytest.raises(ValueError, match="nothing to train"):
        pretrainer.fit(IMAGES, verbose=0)
    backbone.trainable = True
    tiny.compile_model(pretrainer, adamw(1e-3))
    pretrainer.fit(IMAGES, verbose=0)
    assert any(np.any(a != tiny.float_of(v)) for a, v in zip(before, backbone.weights, strict=True))


class Broken(keras.utils.PyDataset):
    """Fails at a batch."""

    def __init__(self, *arrays, fails_at: int):
        super().__init__()
        self.arrays, self.fails_at = arrays, fails_at

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == self.fails_at:
            raise OSError("the disk is gone")
        return tuple(array[4 * index : 4 * index + 4] for array in self.arrays)


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt

    on_test_batch_end = on_predict_batch_end = on_train_batch_end


@pytest.mark.parametrize("fails_at", [0, 1])
def test_a_pass_that_raises_leaves_the_weights(kind, fails_at):
    """Weights survive a failed pass on JAX, where Keras takes them out of the model while it runs."""
    model = compiled(kind)
    expected = flat(model.predict(IMAGES, verbose=0))
    for use in (model.evaluate, model.predict):
        with pytest.raises(OSError, match="the disk is gone"):
            use(Broken(*data(kind), fails_at=fails_at), verbose=0)
        with pytest.raises(ValueError, match="channels"):  # as the step is traced
            use(np.zeros((4, 8, 8, 3), "float32"), verbose=0)
        with pytest.raises(KeyboardInterrupt):
            use(Broken(*data(kind), fails_at=2), callbacks=[Interrupt()], verbose=0)
        np.testing.assert_array_equal(flat(model.predict(IMAGES, verbose=0)), expected)
    with pytest.raises(OSError, match="the disk is gone"):
        model.fit(Broken(*data(kind), fails_at=fails_at), verbose=0)
    with pytest.raises(KeyboardInterrupt):
        model.fit(*data(kind), callbacks=[Interrupt()], verbose=0)
    model.evaluate(*data(kind), verbose=0)
    model.fit(*data(kind), verbose=0)


def test_a_backbone_outlives_a_predict_that_raises():
    model = tiny.backbone()
    with pytest.raises(OSError, match="the disk is gone"):
        model.predict(Broken(IMAGES, fails_at=1), verbose=0)
    assert model.predict(IMAGES, verbose=0)["embeddings"].shape == (12, 5, 16)


def test_predict_in_the_middle_of_an_epoch():
    """The weights are read from the step's state on JAX."""

    class Predict(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.predict(IMAGES, verbose=0)

    model, other = compiled("pretrainer"), compiled("pretrainer")
    model.fit(IMAGES, batch_size=4, shuffle=False, verbose=0, callbacks=[Predict()])
    other.fit(IMAGES, batch_size=4, shuffle=False, verbose=0)
    tiny.assert_same_weights(model, other)


@pytest.mark.parametrize(
    "options",
    [
        # Of JAX in tests/test_compilation.py; eager steps compile each operation there.
        pytest.param({"run_eagerly": True}, marks=pytest.mark.first_on("tensorflow", "torch")),
        # Keras 3.15 refuses it on PyTorch.
        pytest.param({"steps_per_execution": 2}, marks=pytest.mark.only_on("jax", "tensorflow")),
    ],
)
def test_options_of_compile_give_the_same_losses(kind, options):
    losses = []
    for arguments in ({}, options):
        model = uncompiled(kind)
        loss = {"loss": CROSS_ENTROPY} if kind == "classifier" else {}
        tiny.compile_model(model, adamw(1e-2), **loss, **arguments)
        losses.append(
            model.fit(*data(kind), batch_size=4, shuffle=False, epochs=2, verbose=0).history["loss"]
        )
    np.testing.assert_allclose(*losses, rtol=1e-5, atol=1e-6)


def test_validation_by_data_by_share_and_now_and_then(kind):
    model = compiled(kind)
    first = {"batch_size": 4, "epochs": 2, "verbose": 0}
    given = model.fit(*data(kind), validation_data=data(kind), validation_freq=2, **first).history
    assert len(given["val_loss"]) == 1 and len(given["loss"]) == 2
    part = model.fit(*data(kind), validation_split=0.25, **first).history
    assert len(part["val_loss"]) == 2 and np.all(np.isfinite(part["val_loss"]))


@pytest.mark.parametrize("policy", ["bfloat16", "float16", "mixed_bfloat16", "mixed_float16"])
def test_each_policy_trains_and_classifiers_answer_in_float32(kind, policy):
    model = compiled(kind, adamw(1e-3), dtype=policy)
    history = model.fit(*data(kind), batch_size=6, epochs=2, verbose=0).history
    assert np.all(np.isfinite(history["loss"]))
    assert max(history["skipped_steps"]) < 2, "a loss scale may be too large once"
    outputs = model.predict(IMAGES, verbose=0)
    if kind != "pretrainer":
        assert outputs.dtype == "float32"


@pytest.mark.parametrize("kind", KINDS)
def test_floatx_of_16_bits_trains_and_counts(kind):
    """Counts stay in float32: in bfloat16 a count ends at 256."""
    keras.config.set_floatx("bfloat16")
    try:
        model = compiled(kind)
        history = model.fit(*data(kind), batch_size=4, verbose=0).history
    finally:
        keras.config.set_floatx("float32")
    assert np.all(np.isfinite(history["loss"])) and history["skipped_steps"] == [0]
    for metric in model.step_metrics.values():
        assert {keras.backend.standardize_dtype(v.dtype) for v in metric.variables} == {"float32"}


def test_keras_adam_on_weights_of_16_bits_is_refused():
    for policy in ("bfloat16", "float16"):
        with pytest.raises(ValueError, match=f'or dtype="mixed_{policy}"'):
            compiled("pretrainer", "adam", dtype=policy)


# Callbacks of Keras.


def fit(model, kind, *callbacks, **options):
    options = {"batch_size": 6, "epochs": 3, "shuffle": False, **options}
    options |= {"validation_data": data(kind), "verbose": 0, "callbacks": list(callbacks)}
    return model.fit(*data(kind), **options).history


def test_model_checkpoint_and_early_stopping(kind, tmp_path):
    model = compiled(kind)
    whole, weights = tmp_path / "best.keras", tmp_path / "best.weights.h5"
    best = {"monitor": "val_loss", "save_best_only": True}
    fit(
        model,
        kind,
        keras.callbacks.ModelCheckpoint(whole, **best),
        keras.callbacks.ModelCheckpoint(weights, save_weights_only=True, **best),
        keras.callbacks.EarlyStopping("val_loss", min_delta=1e9, restore_best_weights=True),
    )
    assert int(model.optimizer.iterations) == 4, "stopped after the second epoch"
    expected = flat(model.predict(IMAGES, verbose=0))
    other = compiled(kind)
    other.load_weights(weights)
    assert other.evaluate(*data(kind), verbose=0, return_dict=True)["loss"] <= (
        model.evaluate(*data(kind), verbose=0, return_dict=True)["loss"] + 1e-6
    )
    again = keras.saving.load_model(whole)
    np.testing.assert_array_equal(
        flat(again.predict(IMAGES, verbose=0)), flat(other.predict(IMAGES, verbose=0))
    )
    assert expected.shape == flat(again.predict(IMAGES, verbose=0)).shape


@pytest.mark.parametrize(
    "callback",
    [
        lambda: keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=0, min_delta=1e9),
        lambda: keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.5),
    ],
)
def test_callbacks_that_change_the_rate(callback):
    model = compiled("pretrainer", adamw(1e-3))
    rates = fit(model, "pretrainer", callback())["learning_rate"]
    assert rates[-1] < rates[0]
    model = compiled("pretrainer", adamw(WarmupCosine(1e-3, 10)))
    with pytest.raises(TypeError, match="learning rate is not settable"):
        fit(model, "pretrainer", callback())


def test_logs_for_callbacks(kind, tmp_path):
    seen: list[dict] = []
    history = fit(
        compiled(kind),
        kind,
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(logs))),
    )
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert set(header.split(",")) == {"epoch", *history} == {"epoch", *seen[0]}
    assert len(rows) == len(seen) == 3


@pytest.mark.first_on("torch")
def test_swap_ema_weights_takes_the_averages(kind):
    """Validation is of the averages, and training goes on with the weights."""
    model, other = compiled(kind, adamw(1e-2, ema_decay=0.5)), compiled(kind, adamw(1e-2))
    swapped = fit(model, kind, keras.callbacks.SwapEMAWeights())
    plain = fit(other, kind)
    tiny.assert_same_weights(model, other)
    np.testing.assert_allclose(swapped["loss"], plain["loss"], rtol=1e-6)
    assert swapped["val_loss"][-1] != plain["val_loss"][-1]
    with nepa_keras.training.ema_weights(model):
        loss = model.evaluate(*data(kind), verbose=0, return_dict=True)["loss"]
    assert swapped["val_loss"][-1] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("argument", ["use_ema", "clipnorm", "global_clipnorm", "clipvalue"])
def test_arguments_of_keras_optimizers_that_ours_has_not_are_refused(argument):
    with pytest.raises(ValueError, match=f"has no {argument}; use "):
        adamw(1e-3, **{argument: 1})


@pytest.mark.parametrize(
    "optimizer", [lambda: adamw(WarmupCosine(1e-2, 8), ema_decay=0.9), lambda: "adam"]
)
@pytest.mark.first_on("torch")
def test_backup_and_restore_goes_on_as_without_a_break(kind, optimizer, tmp_path):
    """A saved model with RoPE's random rescaling, whose state is in the file, too."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise InterruptedError

    def run(folder, *callbacks):
        keras.utils.set_random_seed(3)
        model = compiled(kind, optimizer(), rope_rescale=2.0)
        backup = keras.callbacks.BackupAndRestore(str(folder), delete_checkpoint=False)
        return model, fit(model, kind, backup, *callbacks, epochs=4)["loss"]

    straight, losses = run(tmp_path / "straight")
    with pytest.raises(InterruptedError):
        run(tmp_path / "broken", Stop())
    resumed, rest = run(tmp_path / "broken")
    np.testing.assert_allclose(rest, losses[2:], rtol=1e-6)
    tiny.assert_same_weights(resumed, straight)
