"""Images and labels that cannot be meant: refused or said, and never a plausible number."""

import warnings

import keras
import numpy as np
import pytest

import nepa_keras
import nepa_keras.inputs
from nepa_keras.training import adamw
from tests.helpers import tiny

backend = keras.backend.backend()
SPARSE = keras.losses.SparseCategoricalCrossentropy


def classifier(loss=None, classes: int = 3) -> nepa_keras.NepaImageClassifier:
    model = nepa_keras.NepaImageClassifier(tiny.backbone(), classes)
    tiny.compile_model(model, adamw(1e-3), loss=loss or SPARSE(from_logits=True))
    return model


def segmenter() -> nepa_keras.NepaImageSegmenter:
    model = nepa_keras.NepaImageSegmenter(tiny.backbone(), 3, head="linear", taps=(0, 0, 1, 1))
    tiny.compile_model(model, adamw(1e-3))
    return model


def given(kind: str, x, y):
    """The same batches in each of the ways that `fit` takes."""
    import tensorflow as tf

    def generator():
        for i in range(0, len(x), 4):
            yield x[i : i + 4], y[i : i + 4]

    return {
        "arrays": lambda: {"x": x, "y": y, "batch_size": 4},
        "generator": lambda: {"x": generator()},
        "tf.data": lambda: {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(4)},
    }[kind]()


KINDS = ["arrays", "generator", "tf.data"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labels", [[1, 2, 3, 3], [-1, 0, 1, 2], [0, 1, 2, 2**33]])
def test_labels_out_of_range_are_refused_before_a_step(kind, labels):
    model = classifier()
    before = tiny.weights(model)
    y = np.tile(np.asarray(labels, "int64"), 2)
    found = f"{min(labels)} to {max(labels)}" if kind == "arrays" else "-?[0-9]"
    with pytest.raises(ValueError, match=f"The labels are {found}"):
        model.fit(**given(kind, tiny.images(8), y), verbose=0)
    with pytest.raises(ValueError, match="The labels are"):
        model.evaluate(**given(kind, tiny.images(8), y), verbose=0)
    for a, b in zip(before, tiny.weights(model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_labels_from_one_are_told_the_remedy():
    with pytest.raises(ValueError, match="subtract 1 from the labels"):
        classifier().fit(tiny.images(6), np.array([1, 2, 3, 1, 2, 3]), verbose=0)


def test_labels_that_are_no_class_numbers_are_refused():
    model = classifier()
    with pytest.raises(ValueError, match="one-hot"):
        model.fit(tiny.images(4), np.eye(3, dtype="float32")[[0, 1, 2, 0]], verbose=0)
    with pytest.raises(ValueError, match=r"whole class numbers, but there is 0\.5"):
        model.fit(tiny.images(4), np.array([0.5, 1, 2, 0]), verbose=0)
    model.fit(tiny.images(4), np.array([0.0, 1, 2, 0]), verbose=0)  # whole numbers
    model.fit(tiny.images(4), np.array([[0], [1], [2], [0]]), verbose=0)


def test_masks_with_other_labels_are_refused():
    model, masks = segmenter(), np.zeros((4, 8, 8), "uint8")
    masks[0, 0, 0] = 255  # which does not count
    model.fit(tiny.images(4), masks, verbose=0)
    masks[1, 2, 3] = 7
    with pytest.raises(ValueError, match="The labels are 0 to 7"):
        model.fit(tiny.images(4), masks, verbose=0)


@pytest.mark.parametrize("make", [classifier, segmenter])
def test_wrong_labels_of_a_later_batch_skip_its_step(make):
    """Known on the device only, so counted and warned of; a `fit` of nothing else has no loss."""
    model = make()
    shape = () if make is classifier else (8, 8)
    good, wrong = np.zeros((4, *shape), "int32"), np.full((4, *shape), 3, "int32")

    def both():
        yield tiny.images(4), good
        yield tiny.images(4), wrong

    with pytest.warns(UserWarning, match="labels"):
        history = model.fit(both(), steps_per_epoch=2, verbose=0).history
    assert history["skipped_steps"] == [1]
    assert np.isfinite(history["loss"][0])

    def evaluated():
        yield tiny.images(4), good
        yield tiny.images(4), wrong

    assert np.isnan(model.evaluate(evaluated(), verbose=0, return_dict=True)["loss"])


PIXELS = np.random.default_rng(2).integers(0, 256, (8, 8, 8, 1), "uint8")


@pytest.mark.parametrize("compiled", [False, True])
def test_pixels_are_scaled_to_the_bit(compiled):
    """Any fusion by a compiler is allowed: one product and one difference round twice, or once."""
    pixels = np.arange(256, dtype="uint8").reshape(1, 16, 16, 1)
    scale = nepa_keras.inputs.as_floats
    if compiled:
        layer = keras.layers.Lambda(lambda x: scale(x, "float32"))
        model = keras.Sequential([keras.Input((16, 16, 1), dtype="uint8"), layer])
        model.compile(jit_compile=backend != "torch")
        found = model.predict(pixels, verbose=0)
    else:
        found = scale(keras.ops.convert_to_tensor(pixels), "float32")
    np.testing.assert_array_equal(tiny.float_of(found), nepa_keras.data.normalize(pixels))


@pytest.mark.xla  # what XLA fuses as it does for users rounds alike
@pytest.mark.parametrize("make", [classifier, segmenter, tiny.compiled_pretrainer])
def test_pixels_give_the_numbers_of_floats(make):
    floats = nepa_keras.data.normalize(PIXELS)
    y = {classifier: {"y": np.arange(8) % 3}, segmenter: {"y": np.zeros((8, 8, 8), "uint8")}}
    results = []
    for images in (floats, PIXELS):
        keras.utils.set_random_seed(1)
        model = make()
        model.takes_pixels = images.dtype == "uint8"
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*images")
            loss = model.fit(images, **y.get(make, {}), batch_size=4, verbose=0).history["loss"]
        results.append([np.array(loss), *map(tiny.float_of, keras.tree.flatten(model(images)))])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_pixels_of_a_size_that_is_filled_up():
    model = nepa_keras.NepaImageSegmenter(tiny.backbone(), 3, head="linear")
    model.takes_pixels = True
    pixels = np.random.default_rng(3).integers(0, 256, (2, 9, 11, 1), "uint8")
    expected = tiny.float_of(model(nepa_keras.data.normalize(pixels)))
    np.testing.assert_array_equal(tiny.float_of(model(pixels)), expected)


def test_pixels_of_0_and_1_are_warned_of():
    with pytest.warns(UserWarning, match="values 0 and 1 only"):
        model = classifier()
        model.takes_pixels = True
        model.predict(PIXELS % 2, verbose=0)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32"])
def test_integer_images_are_refused(dtype):
    images, model = tiny.images(4).astype(dtype), classifier()
    for use in (
        lambda: tiny.compiled_pretrainer().fit(images, verbose=0),
        lambda: model.fit(images, np.zeros(4), verbose=0),
        lambda: model.predict(images, verbose=0),
        lambda: model(images),
    ):
        with pytest.raises(ValueError, match=rf"The images are {dtype}.*\[-1, 1\]"):
            use()
    if dtype != "uint8":  # which it scales
        with pytest.raises(ValueError, match=f"The images are {dtype}"):
            model.backbone(images)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("low, high", [(0, 255), (0, 1), (-128, 127)])
def test_images_of_another_range_are_warned_of_once(kind, low, high):
    model = classifier()
    images = low + (high - low) * (tiny.images(8) - tiny.images(8).min()) / np.ptp(tiny.images(8))
    with pytest.warns(UserWarning, match=r"not in \[-1, 1\]") as said:
        model.fit(**given(kind, images.astype("float32"), np.zeros(8, "int32")), verbose=0)
        model.predict(images, verbose=0)
    assert len([w for w in said if "[-1, 1]" in str(w.message)]) == 1


def test_normalised_images_are_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        classifier().fit(tiny.images(8), np.zeros(8, "int32"), verbose=0)
        tiny.compiled_pretrainer().fit(
            2.7 * np.clip(tiny.images(8), -1, 1), verbose=0
        )  # ImageNet's statistics


@pytest.mark.parametrize("value", [1e38, 3e38, -1e30])
@pytest.mark.parametrize("make", [tiny.compiled_pretrainer, classifier])
def test_a_pixel_that_overflows_is_no_good_step(make, value):
    """Norms turn it into zeros, so the loss would be a number, and weight decay would be applied."""
    model, images = make(), tiny.images(4)
    images[1, 2, 3, 0] = value
    before = tiny.weights(model)
    labels = {"y": np.zeros(4, "int32")} if make is classifier else {}
    with pytest.warns(UserWarning):
        history = model.fit(images, **labels, verbose=0).history
    assert history["skipped_steps"] == [1]
    assert np.isnan(history["loss"][0])
    for a, b in zip(before, tiny.weights(model), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        keras.losses.sparse_categorical_crossentropy,
        SPARSE(),
        keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
        "binary_crossentropy",
    ],
)
def test_a_loss_for_probabilities_is_refused(loss):
    with pytest.raises(ValueError, match=r"returns logits.*from_logits=True"):
        classifier(loss)


def test_other_losses_are_taken():
    for loss in ("mse", keras.losses.CategoricalCrossentropy(from_logits=True)):
        classifier(loss).fit(tiny.images(4), np.eye(3, dtype="float32")[[0, 1, 2, 0]], verbose=0)


class LossOfNaN(keras.losses.Loss):
    """Not finite in the first epochs, as of a head of logits and a loss of one's own."""

    def call(self, y_true, y_pred):
        return keras.ops.mean(y_pred, axis=-1) * float("nan")


def test_an_epoch_without_a_good_step_has_no_loss_and_is_never_the_best(tmp_path):
    model = classifier(LossOfNaN())
    stop = keras.callbacks.EarlyStopping("loss", patience=5, restore_best_weights=True)
    keep = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "best.weights.h5"), "loss", save_best_only=True, save_weights_only=True
    )
    with pytest.warns(UserWarning, match="Likely causes.*from_logits") as said:
        history = model.fit(
            tiny.images(8),
            np.zeros(8, "int32"),
            batch_size=4,
            epochs=2,
            verbose=0,
            callbacks=[stop, keep],
        ).history
    assert np.isnan(history["loss"]).all() and history["skipped_steps"] == [2, 2]
    assert len([w for w in said if "skipped" in str(w.message)]) == 1
    assert not (tmp_path / "best.weights.h5").exists()

    model.compile(adamw(1e-3), SPARSE(from_logits=True))
    model.fit(tiny.images(8), np.zeros(8, "int32"), epochs=2, verbose=0, callbacks=[stop, keep])
    assert np.isfinite(stop.best) and (tmp_path / "best.weights.h5").exists()


def test_best_begins_anew_after_an_epoch_of_nan():
    """The first finite value after an epoch without one is the best so far."""
    model, epochs = tiny.compiled_pretrainer(), iter([np.nan, 0.5, 0.25])

    class Poison(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_loss"] = next(epochs)

    stop = keras.callbacks.EarlyStopping("val_loss", patience=3)
    model.fit(tiny.images(4), epochs=3, verbose=0, callbacks=[Poison(), stop])
    assert stop.best == 0.25
