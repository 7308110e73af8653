"""Refusals and recovery: non-finite steps, wrong images, wrong arguments."""

import keras
import numpy as np
import pytest

import nepa_keras
from nepa_keras.training import WarmupCosine, adamw, ema_weights
from tests.helpers import golden_files, tiny


def state(model) -> dict[str, np.ndarray]:
    """Weights, and everything the optimizer holds (slots, averages, step)."""
    weights = {f"weight {i}": w for i, w in enumerate(tiny.weights(model))}
    return weights | tiny.optimizer_state(model)


def assert_same_state(before: dict, after: dict) -> None:
    assert sorted(before) == sorted(after)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


def poisoned(value: float) -> np.ndarray:
    """Good images but for one pixel of one of them."""
    images = tiny.images(4, seed=9)
    images[1, 2, 3, 0] = value
    return images


OPTIMIZERS = {
    "adamw": lambda: adamw(1e-2, ema_decay=0.9),
    "adamw without average or clip": lambda: adamw(1e-2, clip_norm=None),
    "Keras' own Adam": lambda: keras.optimizers.Adam(1e-2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_non_finite_batch_changes_nothing(name):
    """No weight, slot, average or step count, bit for bit; counted; and training goes on."""
    model, untouched = tiny.pretrainer(), tiny.pretrainer()
    for each in (model, untouched):
        tiny.compile_model(each, optimizer=OPTIMIZERS[name]())
        each.train_on_batch(tiny.images(4, seed=1))
    before = state(model)
    for value in (np.nan, np.inf, -np.inf):
        logs = model.train_on_batch(poisoned(value), return_dict=True)
        assert logs["skipped_steps"] == 1
        assert np.isnan(logs["loss"]), "there is no mean of no good step"
        assert np.isnan(logs["gradient_norm"])
        assert_same_state(before, state(model))
    for each in (model, untouched):
        each.train_on_batch(tiny.images(4, seed=2))
    changed = [
        np.any(a != b) for a, b in zip(tiny.weights(model), tiny.weights(untouched), strict=True)
    ]
    assert not any(changed), "as if the bad batches had never come"
    assert any(np.any(before[f"weight {i}"] != w) for i, w in enumerate(tiny.weights(model)))


class Rate(keras.optimizers.schedules.LearningRateSchedule):
    """Good but for one step."""

    def __init__(self, value: float):
        self.value = value

    def __call__(self, step):
        return keras.ops.where(step == 1, self.value, 1e-2)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38, -1e-2])
@pytest.mark.parametrize("optimizer", [adamw, keras.optimizers.Adam])
def test_a_rate_that_cannot_be_meant_changes_nothing(optimizer, value):
    model = tiny.pretrainer()
    tiny.compile_model(model, optimizer=optimizer(Rate(value)))
    model.train_on_batch(tiny.images(4, seed=1))
    before = state(model)
    logs = model.train_on_batch(tiny.images(4, seed=2), return_dict=True)
    assert logs["skipped_steps"] == 1
    assert_same_state(before, state(model))


def test_a_non_finite_first_batch_changes_nothing():
    """The optimizer has no slots yet; the average still begins at the first good step."""
    model = tiny.pretrainer()
    tiny.compile_model(model, optimizer=adamw(1e-2, ema_decay=0.9))
    before = tiny.weights(model)
    model.train_on_batch(poisoned(np.nan))
    assert int(model.optimizer.iterations) == 0
    for old, new in zip(before, tiny.weights(model), strict=True):
        np.testing.assert_array_equal(new, old)
    assert all(np.all(np.isfinite(v)) for v in tiny.optimizer_state(model).values())
    model.train_on_batch(tiny.images(4))
    for average, weight in zip(model.optimizer.ema_values(), tiny.weights(model), strict=True):
        np.testing.assert_array_equal(average, weight)


def test_a_non_finite_batch_within_an_accumulation_does_not_spread():
    """One skipped step, which leaves no non-finite sum behind for the batches after it."""
    model = tiny.pretrainer()
    tiny.compile_model(model, optimizer=adamw(1e-2, accumulation_steps=4, ema_decay=0.9))
    before = tiny.weights(model)
    model.train_on_batch(tiny.images(4, seed=1))
    logs = model.train_on_batch(poisoned(np.nan), return_dict=True)
    assert logs["skipped_steps"] == 1
    assert all(np.all(np.isfinite(v)) for v in tiny.optimizer_state(model).values())
    logs = model.train_on_batch(tiny.images(4, seed=2), return_dict=True)
    assert logs["skipped_steps"] == 0, "the good batch after it is not skipped"
    for old, new in zip(before, tiny.weights(model), strict=True):
        np.testing.assert_array_equal(new, old)  # no update is due yet
    for seed in range(3, 9):
        logs = model.train_on_batch(tiny.images(4, seed=seed), return_dict=True)
        assert logs["skipped_steps"] == 0
    assert any(np.any(a != b) for a, b in zip(before, tiny.weights(model), strict=True))
    assert all(np.all(np.isfinite(w)) for w in tiny.weights(model))


def test_many_in_a_row_stop_fit_with_a_clear_message():
    model = tiny.pretrainer()
    model.max_skipped_in_a_row = 3
    tiny.compile_model(model, optimizer=adamw(1e-2, ema_decay=0.9))
    model.fit(tiny.images(8), batch_size=4, verbose=0)
    before = state(model)
    with pytest.raises(nepa_keras.NonFiniteError, match=r"steps in a row .*non-finite.*images"):
        model.fit(np.full((16, 8, 8, 1), np.nan, "float32"), batch_size=4, epochs=5, verbose=0)
    assert_same_state(before, state(model))
    model.fit(tiny.images(8), batch_size=4, verbose=0)  # and can be trained on
    assert any(np.any(before[f"weight {i}"] != w) for i, w in enumerate(tiny.weights(model)))


def test_a_long_epoch_is_stopped_before_its_end():
    """Fit looks every 20 batches, not only at the end of the epoch."""
    model = tiny.pretrainer()
    model.max_skipped_in_a_row = 5
    tiny.compile_model(model, optimizer=adamw(1e-2))
    seen = []
    counter = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(batch)
    )
    with pytest.raises(nepa_keras.NonFiniteError):
        images = np.full((200, 8, 8, 1), np.nan, "float32")
        model.fit(images, batch_size=1, verbose=0, callbacks=[counter])
    assert len(seen) < 60


def test_scattered_non_finite_batches_do_not_stop_fit():
    model = tiny.pretrainer()
    model.max_skipped_in_a_row = 2
    tiny.compile_model(model, optimizer=adamw(1e-2))
    images = tiny.images(12)
    images[::3] = np.nan  # batches of 1: one bad, two good
    history = model.fit(images, batch_size=1, shuffle=False, epochs=2, verbose=0).history
    assert history["skipped_steps"] == [4, 4]
    assert np.all(np.isfinite(history["loss"]))


def test_the_classifier_is_guarded_too():
    model = nepa_keras.NepaImageClassifier(tiny.pretrainer().backbone, 3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    tiny.compile_model(model, optimizer=adamw(1e-2), loss=loss, metrics=["accuracy"])
    labels = np.arange(4) % 3
    model.train_on_batch(tiny.images(4), labels)
    before = state(model)
    logs = model.train_on_batch(poisoned(np.nan), labels, return_dict=True)
    assert logs["skipped_steps"] == 1 and np.isnan(logs["loss"])
    assert_same_state(before, state(model))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 9, 8, 1), "9x8.*4x4.*multiple, such as 8x8 or 12x8"),
        ((2, 8, 6, 1), "8x6.*4x4.*multiple"),
        ((2, 2, 2, 1), "2x2.*4x4.*multiple"),
        ((2, 8, 8, 3), "1 channels"),
        ((2, 1, 8, 8), "1 channels.*last"),
        ((8, 8, 1), r"\(batch, height, width, channels\)"),
        ((2, 1, 8, 8, 1), r"\(batch, height, width, channels\)"),
    ],
)
def test_wrong_images_are_refused(shape, words):
    """Each is refused in one sentence that names what came and what is expected."""
    images = np.zeros(shape, "float32")
    model = tiny.pretrainer()
    with pytest.raises(ValueError, match=words):
        model.backbone(images)
    with pytest.raises(ValueError, match=words):
        model(images)
    with pytest.raises(ValueError, match=words):
        nepa_keras.NepaImageClassifier(model.backbone, 3)(images)


def test_wrong_images_are_refused_by_fit():
    model = tiny.pretrainer()
    tiny.compile_model(model, optimizer=adamw(1e-2))
    with pytest.raises(ValueError, match=r"9x8.*4x4.*multiple"):
        model.fit(np.zeros((4, 9, 8, 1), "float32"), batch_size=2, verbose=0)


def make_backbone(**overrides):
    return lambda: tiny.backbone(**overrides)


BAD_ARGUMENTS = {
    "width and heads": (make_backbone(num_heads=3), "num_heads=3.*hidden_dim=16"),
    "head width": (make_backbone(hidden_dim=12, num_heads=2), "multiple of 4, got 6"),
    "built size": (make_backbone(patch_size=3), "8x8.*3x3"),
    "drop path": (make_backbone(drop_path_rate=1.0), "drop path rate.*1.0"),
    "rope rescale": (make_backbone(rope_rescale=0.5), "rescale.*0.5"),
    "rope jitter": (make_backbone(rope_jitter=0.0), "jitter.*0"),
    "activation": (make_backbone(activation="swish-ish"), "swish-ish"),
    "unknown argument": (make_backbone(depth=3), "depth"),
    "layers": (make_backbone(num_layers=0), "num_layers"),
    "patch": (make_backbone(patch_size=0), "patch_size"),
    "mask token": (
        lambda: nepa_keras.NepaPretrainer(tiny.backbone(), masking_ratio=0.4),
        "use_mask_token",
    ),
    "masking ratio": (
        lambda: nepa_keras.NepaPretrainer(tiny.backbone(use_mask_token=True), masking_ratio=1.0),
        r"masking_ratio.*\[0, 1\)",
    ),
    "pooling": (
        lambda: nepa_keras.NepaImageClassifier(tiny.backbone(), 3, pooling="max"),
        "pooling.*max",
    ),
    "classes": (lambda: nepa_keras.NepaImageClassifier(tiny.backbone(), 0), "num_classes"),
    "accumulation": (lambda: adamw(1e-3, accumulation_steps=0), "accumulation_steps"),
    "ema": (lambda: adamw(1e-3, ema_decay=1.0), "ema_decay"),
    "rate": (lambda: adamw(-1e-3), "learning_rate must be a number from 0"),
    "rate that is none": (lambda: adamw(float("nan")), "learning_rate must be a number from 0"),
    "peak rate": (lambda: WarmupCosine(float("inf"), 10), "peak_learning_rate must be a number"),
    "clip": (lambda: adamw(1e-3, clip_norm=0.0), "clip_norm"),
    "steps": (lambda: WarmupCosine(1e-3, 0), "total_steps"),
    "warm-up": (lambda: WarmupCosine(1e-3, 10, warmup_steps=11), "warm-up.*11"),
    "clone": (
        lambda: nepa_keras.clone_backbone(tiny.backbone(), hidden_dim=32),
        "shape.*source.*clone",
    ),
    "clone with fewer layers": (
        lambda: nepa_keras.clone_backbone(tiny.backbone(), num_layers=1),
        "block_1",
    ),
    "clone without its scale": (
        lambda: nepa_keras.clone_backbone(tiny.backbone(), layer_scale=None),
        "scale",
    ),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_wrong_arguments_are_refused(name):
    """Refused where they are given, with the name of the argument and what it may be."""
    make, words = BAD_ARGUMENTS[name]
    with pytest.raises((ValueError, TypeError), match=words):
        make()


def test_ema_weights_needs_an_average_and_a_step():
    model = tiny.pretrainer()
    tiny.compile_model(model, optimizer=adamw(1e-2))
    with pytest.raises(ValueError, match="ema_decay"), ema_weights(model):
        pass
    tiny.compile_model(model, optimizer=adamw(1e-2, ema_decay=0.9))
    with pytest.raises(ValueError, match="at least one step"), ema_weights(model):
        pass


def test_ema_weights_are_put_back_after_an_error():
    model = tiny.pretrainer()
    tiny.compile_model(model, optimizer=adamw(1e-2, ema_decay=0.9))
    for seed in range(3):
        model.train_on_batch(tiny.images(4, seed=seed))
    trained = tiny.weights(model)
    with pytest.raises(KeyError), ema_weights(model):
        assert any(np.any(a != b) for a, b in zip(trained, tiny.weights(model), strict=True))
        raise KeyError("in the block")
    for before, after in zip(trained, tiny.weights(model), strict=True):
        np.testing.assert_array_equal(after, before)


CLS = "vit_nepa.embeddings.cls_token"
PROBLEMS = {
    "missing": (lambda tensors: tensors.pop(CLS), "lacks.*cls_token"),
    "left over": (lambda tensors: tensors.update({"vit_nepa.other": tensors[CLS]}), "other"),
    "shape": (lambda tensors: tensors.update({CLS: tensors[CLS][:, :, 1:]}), "cls_token.*shape"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_official_tensors_are_loaded_strictly(problem):
    """All tensors and no others, of the right shapes; otherwise nothing is assigned."""
    spoil, words = PROBLEMS[problem]
    model = nepa_keras.NepaPretrainer(golden_files.backbone("pretrain_gelu"))
    before = tiny.weights(model)
    tensors = dict(golden_files.tensors("pretrain_gelu/weights.safetensors"))
    spoil(tensors)
    with pytest.raises(ValueError, match=words):
        nepa_keras.interop.load_official_tensors(model, tensors)
    for old, new in zip(before, tiny.weights(model), strict=True):
        np.testing.assert_array_equal(new, old)
