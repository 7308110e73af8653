"""Models as parts of functional ones, with images of unknown size, and `export` without more arguments."""

from pathlib import Path

import keras
import pytest
from keras import ops

import nepa_keras
from tests.helpers import tiny
from tests.helpers.artefacts import FORMAT, run_exported
from tests.helpers.tolerances import assert_close

SHAPES = [(8, 8, 1), (12, 16, 1)]
backend = keras.backend.backend()


def functional(model):
    x = keras.Input((None, None, 1))
    return keras.Model(x, model(x))


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_a_functional_model_takes_images_of_any_size(dtype):
    backbone = tiny.pretrainer(dtype=dtype).backbone
    model = functional(backbone)
    assert {k: tuple(v.shape) for k, v in model.output.items()} == {
        "embeddings": (None, None, 16),
        "sequence_output": (None, None, 16),
    }
    for shape in SHAPES:
        images = tiny.images(2, shape)
        expected = backbone(images)["sequence_output"]
        for found in (model(images), model.predict(images, verbose=0)):
            found = found["sequence_output"]
            kind = "same_numbers" if dtype == "float32" else "attention_bfloat16"
            assert_close(tiny.float_of(found), tiny.float_of(expected), kind)


def test_a_functional_model_is_saved(tmp_path):
    classifier = nepa_keras.NepaImageClassifier(tiny.pretrainer().backbone, 3)
    classifier.head.kernel.assign(ops.ones((16, 3)))
    model = functional(classifier)
    assert tuple(model.output.shape) == (None, 3)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    images = tiny.images(2, SHAPES[1])
    assert_close(tiny.float_of(again(images)), tiny.float_of(classifier(images)), "same_numbers")


def test_a_size_that_the_patch_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="cannot be cut into patches"):
        tiny.backbone()(keras.Input((10, 8, 1)))


@pytest.mark.parametrize("quantized", [False] if backend == "torch" else [False, True])
def test_export_needs_no_more_than_a_path(tmp_path, quantized):
    """Before any call; the batch is free, and on TensorFlow of a functional model the size, too."""
    backbone = tiny.pretrainer().backbone
    if quantized:
        backbone.quantize("int8")
    backbone.export(tmp_path / "fixed", FORMAT, verbose=False)
    images = tiny.images(3)
    _, found = run_exported(tmp_path / "fixed", images)
    assert_close(found, tiny.float_of(backbone(images)["sequence_output"]), "same_numbers")
    if backend == "tensorflow":
        functional(backbone).export(tmp_path / "free", verbose=False)
        for shape in SHAPES:
            images = tiny.images(2, shape)
            expected = tiny.float_of(backbone(images)["sequence_output"])
            _, found = run_exported(tmp_path / "free", images)
            assert_close(found, expected, "same_numbers")


@pytest.mark.only_on("tensorflow", "torch")
def test_onnx_of_upernet_runs(tmp_path):
    """GELU has to be a form that ONNX knows, also on TensorFlow."""
    model = nepa_keras.NepaImageSegmenter(tiny.backbone(), 3, taps=(0, 0, 1, 1), channels=4)
    path = tmp_path / "segmenter.onnx"
    model.export(path, "onnx", verbose=False)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    images = tiny.images(3)
    (found,) = session.run(None, {session.get_inputs()[0].name: images})
    assert_close(found, tiny.float_of(model(images)), "same_numbers")


@pytest.mark.only_on("tensorflow")
def test_onnx_of_a_large_model_names_the_backend_that_can(tmp_path, monkeypatch):
    monkeypatch.setattr(nepa_keras.deployment, "_LARGEST_ONNX_OF_TENSORFLOW", 1000)
    with pytest.raises(ValueError, match="KERAS_BACKEND=torch"):
        tiny.backbone().export(tmp_path / "large.onnx", "onnx", verbose=False)


@pytest.mark.only_on("tensorflow", "torch")
def test_onnx_that_does_not_run_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(
        keras.Model, "export", lambda self, path, *_: Path(path).write_bytes(b"no model")
    )
    with pytest.raises(RuntimeError, match="does not run"):
        tiny.backbone().export(tmp_path / "broken.onnx", "onnx")


@pytest.mark.only_on("jax", "torch")
def test_a_format_that_the_backend_cannot_write_is_refused(tmp_path):
    """The sentence names a backend that can, and nothing is written."""
    format, other = {
        "jax": ("onnx", "tensorflow or torch"),
        "torch": ("tf_saved_model", "tensorflow or jax"),
    }[backend]
    with pytest.raises(NotImplementedError, match=f"KERAS_BACKEND={other}"):
        tiny.backbone().export(tmp_path / "out", format, verbose=False)
    assert not any(tmp_path.iterdir())
