"""NepaImageSegmenter: loss, any size, training, saving, and weights from the other models."""

import keras
import numpy as np
import pytest
import torch
from keras import ops

import nepa_keras
from nepa_keras.segmenter import default_taps, segmentation_loss
from tests.helpers import tiny
from tests.helpers.tolerances import assert_close

CLASSES = 3


def segmenter(seed: int = 0, **arguments) -> nepa_keras.NepaImageSegmenter:
    keras.utils.set_random_seed(seed)
    names = ("num_layers", "drop_path_rate", "use_causal_mask", "qk_norm_scale", "dtype")
    backbone = tiny.backbone(**{n: arguments.pop(n) for n in names if n in arguments})
    return nepa_keras.NepaImageSegmenter(
        backbone, arguments.pop("num_classes", CLASSES), **{"channels": 8, **arguments}
    )


def scene(count: int = 8, size=(10, 13), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images whose labels are: bright, dark, and 255 in the first row."""
    images = tiny.images(count, (*size, 1), seed)
    coarse = np.repeat(np.repeat(images[:, ::4, ::4], 4, axis=1), 4, axis=2)[
        :, : size[0], : size[1]
    ]
    labels = (coarse[..., 0] > 0).astype(np.uint8)
    labels[:, 0] = 255
    return coarse, labels


def numpy_of(x) -> np.ndarray:
    return np.array(ops.convert_to_numpy(x))


def test_the_loss_is_pytorchs_and_its_gradient_too():
    draw = np.random.default_rng(0)
    logits = draw.standard_normal((2, 5, 7, CLASSES)).astype("float32") * 5
    labels = draw.integers(0, CLASSES, (2, 5, 7))
    labels[draw.random(labels.shape) < 0.3] = 255
    theirs = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        theirs.permute(0, 3, 1, 2), torch.tensor(labels), ignore_index=255
    )
    found = segmentation_loss(ops.convert_to_tensor(logits), labels.astype(np.uint8))
    assert_close(numpy_of(found), float(expected.detach()), "same_numbers")
    half = segmentation_loss(ops.cast(logits, "bfloat16"), labels)
    assert keras.backend.standardize_dtype(half.dtype) == "float32"


def test_pixels_of_no_class_change_nothing():
    model, other = segmenter(auxiliary_weight=0.0), segmenter(auxiliary_weight=0.0)
    images, labels = scene()
    for m in (model, other):
        tiny.compile_model(m, keras.optimizers.SGD(0.1))
    model.fit(images, labels, batch_size=8, verbose=0)
    # Whatever is below the ignored pixels: the loss is of the others.
    logits = model.predict(images, verbose=0)
    loss = model.evaluate(images, labels, verbose=0, return_dict=True)["loss"]
    expected = -np.log(np.exp(logits[:, 1:]) / np.exp(logits[:, 1:]).sum(-1, keepdims=True))
    chosen = np.take_along_axis(expected, labels[:, 1:, :, None].astype(int), -1)
    assert loss == pytest.approx(chosen.mean(), rel=1e-4)
    before = tiny.weights(other)
    nothing = np.full_like(labels, 255)
    history = other.fit(images, nothing, batch_size=8, verbose=0).history
    assert history["loss"] == [0.0] and history["skipped_steps"] == [0.0]
    for a, b in zip(tiny.weights(other), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("head", ["upernet", "linear"])
@pytest.mark.parametrize(
    "size",
    [(9, 11), *(pytest.param(size, marks=pytest.mark.full) for size in [(8, 8), (4, 4), (16, 5)])],
    ids=str,
)
def test_any_size_goes_in_and_comes_out(head, size):
    """Other sizes than multiples of the patch are padded with zeros on the right and below, then cropped."""
    model = segmenter(head=head)
    tiny.spread_weights(model)
    images = tiny.images(2, (*size, 1))
    logits = numpy_of(model(images))
    assert logits.shape == (2, *size, CLASSES) and logits.dtype == np.float32
    padded = np.pad(images, [(0, 0), (0, -size[0] % 4), (0, -size[1] % 4), (0, 0)])
    whole = numpy_of(model(padded))
    assert_close(logits, whole[:, : size[0], : size[1]], "same_numbers")
    training = model(images, training=True)
    assert tuple(training["logits"].shape) == (2, *size, CLASSES)
    assert ("auxiliary" in training) == (head == "upernet")


def test_a_step_that_is_not_finite_leaves_moving_statistics_as_they_were():
    model = segmenter()
    tiny.compile_model(
        model, keras.optimizers.Adam(1e-2)
    )  # JAX has compiled this step for another test
    images, labels = scene(8)
    model.train_on_batch(images, labels)
    before = [numpy_of(v) for v in model.weights]
    images[1, 3, 3] = np.nan
    assert model.train_on_batch(images, labels, return_dict=True)["skipped_steps"] == 1
    for variable, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(numpy_of(variable), old, err_msg=variable.path)
    images[1, 3, 3] = 0.0
    model.train_on_batch(images, labels)
    means = [numpy_of(v) for v in model.moving_statistics]
    assert len(means) > 20 and all(np.isfinite(m).all() for m in means)


@pytest.mark.first_on("tensorflow", "torch")
def test_one_model_is_trained_and_used_at_several_sizes():
    """A compiled function that has seen two sizes would know none of them any more on TensorFlow."""
    model = segmenter(head="linear")
    tiny.compile_model(model, keras.optimizers.SGD(0.01))
    for size in ((8, 8), (9, 11), (8, 8)):
        images, labels = scene(4, size)
        assert np.isfinite(model.fit(images, labels, batch_size=2, verbose=0).history["loss"]).all()
        assert np.isfinite(model.evaluate(images, labels, batch_size=2, verbose=0)).all()
        on_batch = model.test_on_batch(images, labels, return_dict=True)["loss"]
        loss = numpy_of(segmentation_loss(model(images), labels))
        assert on_batch == pytest.approx(float(loss), rel=1e-5)
        found = model.predict(images, batch_size=3, verbose=0)
        assert_close(found, numpy_of(model(images)), "same_numbers")
        assert_close(model.predict_on_batch(images), found, "same_numbers")


def test_taps_are_raw_outputs_of_blocks_without_mask():
    """UPerNet sees neither the final norm nor anything after the last tap, and no causal mask."""
    model = segmenter(num_layers=4, taps=(0, 1, 1, 2), use_causal_mask=True)
    tiny.spread_weights(model)
    images = tiny.images(2, (8, 8, 1))
    before = numpy_of(model(images))
    for variable in [*model.backbone.norm.weights, *model.backbone.blocks[3].weights]:
        variable.assign(np.zeros(variable.shape))
    np.testing.assert_array_equal(numpy_of(model(images)), before)
    changed = images.copy()
    changed[:, 4:, 4:] += 1.0  # the last patch, which a mask would hide from the others
    linear = segmenter(head="linear", use_causal_mask=True)
    tiny.spread_weights(linear)
    difference = numpy_of(linear(changed)) - numpy_of(linear(images))
    assert np.abs(difference[:, 0, 0]).max() > 1e-4


@pytest.mark.once
def test_default_taps_are_those_of_the_recipes():
    assert default_taps(12) == (3, 5, 7, 11) and default_taps(24) == (7, 11, 15, 23)
    assert default_taps(4) == (0, 1, 2, 3) and default_taps(1) == (0, 0, 0, 0)


def test_the_auxiliary_head_counts_by_its_weight():
    images, labels = scene()
    losses = {}
    for weight in (0.0, 0.4, 1.0):
        model = segmenter(auxiliary_weight=weight, dropout=0.0)
        out = model(images, training=True)
        losses[weight] = float(model.compute_loss(images, labels, out))
        main = float(segmentation_loss(out["logits"], labels))
        auxiliary = float(segmentation_loss(out["auxiliary"], labels)) if weight else 0.0
        assert losses[weight] == pytest.approx(main + weight * auxiliary, rel=1e-5)
    assert losses[0.0] < losses[0.4] < losses[1.0]


@pytest.mark.parametrize("head", ["upernet", "linear"])
def test_a_segmenter_learns_by_every_weight_and_is_evaluated(head):
    model = segmenter(head=head)
    tiny.compile_model(model, keras.optimizers.Adam(1e-2))
    images, labels = scene(16)
    before = tiny.weights(model)
    history = model.fit(images, labels, batch_size=8, epochs=15, verbose=0).history
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    after = tiny.weights(model)
    for variable, old, new in zip(model.trainable_variables, before, after, strict=True):
        # UPerNet reads no final norm: there is nothing after its last tap.
        unused = head == "upernet" and variable.path.startswith(f"{model.backbone.name}/norm/")
        assert (old != new).any() != unused, variable.path
    found = model.evaluate(images, labels, verbose=0, return_dict=True)
    right = model.predict(images, verbose=0).argmax(-1)[labels != 255] == labels[labels != 255]
    assert found["pixel_accuracy"] == pytest.approx(right.mean(), abs=1e-5) and right.mean() > 0.8


def test_metrics_of_keras_can_be_compiled_in():
    model = segmenter()
    metric = keras.metrics.MeanIoU(CLASSES, ignore_class=255, sparse_y_pred=False)
    tiny.compile_model(model, metrics=[metric])
    images, labels = scene()
    found = model.evaluate(images, labels, verbose=0, return_dict=True)["mean_io_u"]
    scores = nepa_keras.evaluation.SegmentationScores(CLASSES)
    scores.update(labels, model.predict(images, verbose=0).argmax(-1))
    assert found == pytest.approx(scores.report().miou, rel=1e-5)


def test_a_frozen_backbone_stays_and_is_as_in_inference():
    model = segmenter(freeze_backbone=True, drop_path_rate=0.5)
    tiny.spread_weights(model.backbone)
    tiny.compile_model(model, keras.optimizers.SGD(0.1))
    before = [numpy_of(v) for v in model.backbone.weights]
    images, labels = scene()
    model.fit(images, labels, batch_size=4, verbose=0)
    for variable, old in zip(model.backbone.weights, before, strict=True):
        np.testing.assert_array_equal(numpy_of(variable), old)
    heads = [v.path.split("/")[0] for v in model.trainable_variables]
    assert set(heads) == {"pyramid", "decode_head", "auxiliary_head"}
    again = type(model).from_config(model.get_config())
    assert len(again.trainable_variables) == len(model.trainable_variables)


@pytest.mark.first_on("torch")
@pytest.mark.parametrize("head", ["upernet", "linear"])
def test_saved_and_loaded_it_goes_on(head, tmp_path):
    images, labels = scene()
    model = segmenter(head=head, dropout=0.0, class_names=["a", "b", "c"])
    tiny.compile_model(model, nepa_keras.training.adamw(1e-2))
    model.fit(images, labels, batch_size=4, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        again.predict(images, verbose=0), model.predict(images, verbose=0)
    )
    for m in (model, again):
        m.fit(images, labels, batch_size=4, shuffle=False, verbose=0)
    for a, b in zip(model.weights, again.weights, strict=True):
        assert_close(numpy_of(a), numpy_of(b), "same_numbers", a.path)


@pytest.mark.first_on("torch")
@pytest.mark.parametrize("head", ["upernet", "linear"])
def test_a_preset_holds_all_of_it(head, tmp_path):
    model = segmenter(head=head, class_names=["sky", "sea", "sand"], qk_norm_scale=True)
    images, labels = scene()
    tiny.compile_model(model, keras.optimizers.SGD(0.1))
    model.fit(images, labels, batch_size=4, verbose=0)  # moving statistics too
    model.save_to_preset(tmp_path / "preset")
    again = nepa_keras.NepaImageSegmenter.from_preset(tmp_path / "preset")
    np.testing.assert_array_equal(
        again.predict(images, verbose=0), model.predict(images, verbose=0)
    )
    assert again.class_names == ("sky", "sea", "sand")
    other = nepa_keras.NepaImageSegmenter.from_preset(tmp_path / "preset", num_classes=5)
    assert other.num_classes == 5 and other.class_names is None
    backbone = nepa_keras.NepaBackbone.from_preset(tmp_path / "preset")
    for a, b in zip(backbone.weights, other.backbone.weights, strict=True):
        np.testing.assert_array_equal(numpy_of(a), numpy_of(b))


@pytest.mark.parametrize("kind", ["pretrained", "classifier"])
def test_a_segmenter_is_made_from_the_other_models(kind, tmp_path):
    backbone = tiny.backbone()
    tiny.spread_weights(backbone)
    if kind == "pretrained":
        source = nepa_keras.NepaPretrainer(backbone)
    else:
        source = nepa_keras.NepaImageClassifier(backbone, 7)
    nepa_keras.interop.export_huggingface(source, tmp_path / "official")
    with pytest.raises(ValueError, match="pass num_classes="):
        nepa_keras.NepaImageSegmenter.from_preset(tmp_path / "official")
    model = nepa_keras.NepaImageSegmenter.from_preset(
        tmp_path / "official", num_classes=CLASSES, channels=8, drop_path_rate=0.1
    )
    theirs = {v.path.partition("/")[2]: numpy_of(v) for v in backbone.trainable_variables}
    for variable in model.backbone.trainable_variables:
        name = variable.path.partition("/")[2]
        if name in theirs:
            np.testing.assert_array_equal(numpy_of(variable), theirs.pop(name))
        else:
            assert name.endswith(("q_norm/gamma", "k_norm/gamma"))
    assert not theirs


def test_mixed_precision_trains():
    model = segmenter(dtype="mixed_bfloat16")
    model.compile(optimizer=nepa_keras.training.adamw(1e-2))
    images, labels = scene(16)
    history = model.fit(images, labels, batch_size=8, epochs=10, verbose=0).history
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    assert model.predict(images, verbose=0).dtype == np.float32
    assert all(v.dtype == "float32" for v in model.trainable_variables)


def test_the_official_format_and_weights_of_pixels_are_refused(tmp_path):
    model = segmenter(head="linear")
    with pytest.raises(ValueError, match="has no segmenter; keep it with save_to_preset"):
        nepa_keras.interop.export_huggingface(model, tmp_path / "official")
    tiny.compile_model(model)
    images, labels = scene()
    with pytest.raises(
        ValueError, match=r"every labelled pixel counts once; leave out sample_weight"
    ):
        model.fit(images, labels, sample_weight=np.ones(len(images)), verbose=0)


WRONG = {
    "head must be one of upernet, linear": {"head": "fcn"},
    "num_classes must be at least 1": {"num_classes": 0},
    "There are 1 class names for 3 classes": {"class_names": ["a"]},
    "taps must be four of the blocks 0 to 1": {"taps": (0, 1, 1, 2)},
    "no variable 'nothing' to freeze": {"frozen": ["nothing"]},
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_arguments_are_refused(words):
    with pytest.raises(ValueError, match=words):
        segmenter(**WRONG[words])
