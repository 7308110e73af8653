"""experiments/convert.py as a person starts it, on folders made from the reference numbers."""

import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from tests.helpers import golden_files
from tests.helpers.scripts import refusal, run, run_here


def official_folder(folder: Path, config: str, weights: str) -> Path:
    folder.mkdir()
    shutil.copy(golden_files.GOLDEN / config, folder / "config.json")
    shutil.copy(golden_files.GOLDEN / weights, folder / "model.safetensors")
    return folder


@pytest.fixture
def pretrained(tmp_path):
    files = "conversion/before_config.json", "conversion/before.safetensors"
    folder = official_folder(tmp_path / "pretrained", *files)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return folder


def differences(stdout: str) -> list[float]:
    return [float(x) for x in re.findall(r"^largest difference, .*: (\S+)$", stdout, re.MULTILINE)]


@pytest.mark.once
def test_import_conversion_and_export(pretrained, tmp_path):
    """Official to ours, ours to a folded classifier in the official layout, which is the golden one."""
    ours, after, names = tmp_path / "ours", tmp_path / "after", tmp_path / "names.txt"
    names.write_text("".join(f"class, number {i}\n" for i in range(10)))
    result = run("convert.py", f"--source={pretrained}", f"--output={ours}")
    assert result.returncode == 0, result.stderr
    assert differences(result.stdout) == [0.0]
    assert "variables\n" in result.stdout and "patch_embeddings" not in result.stdout
    result = run_here(
        "convert.py",
        f"--source={ours}",
        f"--output={after}",
        "--to=huggingface",
        "--model=classifier",
        f"--class_names={names}",
        "--drop_path=0.1",
        "--fold_layer_scale",
        f"--image={tmp_path / 'picture.png'}",
    )
    assert result.returncode == 0, result.stderr
    of_conversion, read_back = differences(result.stdout)
    assert of_conversion < 5e-5 and read_back == 0.0
    assert "rule fold_layer_scale" in result.stdout and "rule qk_norm_scale_ones" in result.stdout
    expected = golden_files.tensors("conversion/after_fold.safetensors")
    actual = load_file(after / "model.safetensors")
    assert sorted(actual) == sorted(expected)
    assert (after / "preprocessor_config.json").exists()
    config = json.loads((after / "config.json").read_text())
    assert config["drop_path_prob"] == 0.1 and config["id2label"]["9"] == "class, number 9"


@pytest.mark.once
def test_a_training_checkpoint_is_exported_with_its_averaged_weights(tmp_path):
    import nepa_keras
    from tests.helpers import tiny

    model = tiny.pretrainer()
    model.compile(optimizer=nepa_keras.training.adamw(0.1, ema_decay=0.5))
    model.fit(tiny.images(8), batch_size=4, verbose=0)
    model.save(tmp_path / "checkpoint.keras")
    output = tmp_path / "official"
    result = run_here(
        "convert.py",
        f"--source={tmp_path / 'checkpoint.keras'}",
        "--ema",
        "--to=huggingface",
        f"--output={output}",
    )
    assert result.returncode == 0, result.stderr
    assert differences(result.stdout) == [0.0]
    averages = nepa_keras.interop.official_gradients(model, model.optimizer.averages)
    for name, value in load_file(output / "model.safetensors").items():
        np.testing.assert_array_equal(value, averages[name], err_msg=name)


@pytest.fixture
def finetuned(tmp_path):
    """A classifier whose logits are not zero."""
    files = "classify/config.json", "classify/weights.safetensors"
    return official_folder(tmp_path / "finetuned", *files)


REFUSED = {"saved_model": "torch", "onnx": "jax"}


@pytest.mark.parametrize("file_format", REFUSED)
@pytest.mark.parametrize("model", ["backbone", "classifier"])
def test_an_artefact_gives_the_numbers_of_the_model(model, file_format, finetuned, tmp_path):
    """Features and logits, run by TensorFlow or ONNX Runtime; a backend that cannot says what to do."""
    output = tmp_path / f"served.{file_format}"
    flags = [f"--source={finetuned}", f"--model={model}", f"--to={file_format}"]
    result = run_here("convert.py", *flags, f"--output={output}")
    if keras.backend.backend() == REFUSED[file_format]:
        assert result.returncode == 1 and "Traceback" not in result.stderr
        assert f"on the {REFUSED[file_format]} backend" in result.stderr
        assert "export it with KERAS_BACKEND=tensorflow" in result.stderr
    else:
        assert result.returncode == 0, result.stderr
        *_, of_artefact = differences(result.stdout)
        assert of_artefact < 5e-5


@pytest.mark.once
def test_a_quarter_of_the_size_in_eight_bits(finetuned, tmp_path):
    output = tmp_path / "small.keras"
    flags = [f"--source={finetuned}", "--to=keras", "--quantize=int8"]
    result = run_here("convert.py", *flags, f"--output={output}")
    assert result.returncode == 0, result.stderr
    of_integers, read_back = differences(result.stdout)
    assert 0 < of_integers < 0.5 and read_back == 0.0  # of tokens up to 9
    model = keras.saving.load_model(output)
    assert model.head.quantization_mode == "int8"


def test_an_onnx_file_takes_any_batch(finetuned, tmp_path):
    import nepa_keras

    if keras.backend.backend() == "jax":  # refused, see above
        return
    model = nepa_keras.NepaImageClassifier.from_preset(finetuned)
    nepa_keras.interop.export_onnx(model, tmp_path / "model.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (images,) = session.get_inputs()
    draw = np.random.default_rng(0).standard_normal
    for batch in (1, 3):
        x = draw((batch, *model.backbone.image_shape), dtype="float32")
        (logits,) = session.run(None, {images.name: x})
        expected = keras.ops.convert_to_numpy(model(x))
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(logits, expected, rtol=0, atol=5e-5)
    half = nepa_keras.NepaImageClassifier.from_preset(finetuned, dtype="mixed_bfloat16")
    with pytest.raises(ValueError, match="float32, not bfloat16"):
        nepa_keras.interop.export_onnx(half, tmp_path / "half.onnx")


@pytest.mark.once
def test_wrong_flags_are_refused(pretrained, tmp_path):
    output = f"--output={tmp_path / 'out'}"
    cases = {
        "no preset or folder": ["--source=nowhere"],
        "no whole .keras file": ["--source=nothing.keras"],
        "num_classes": [f"--source={pretrained}", "--model=classifier"],
        "no pytorch_model_ema.bin": [f"--source={pretrained}", "--ema"],
        "--quantize is for --to=keras": [f"--source={pretrained}", "--quantize=int8"],
        "must end in .keras": [f"--source={pretrained}", "--to=keras"],
        "no argument class_names": [f"--source={pretrained}", f"--class_names={__file__}"],
        "No such file": [f"--source={pretrained}", "--class_names=nothing.txt"],
        "can only be converted unchanged": [f"--source={__file__}.keras", "--drop_path=0.1"],
        "not a readable image": [f"--source={pretrained}", "--image=nothing.png"],
    }
    for words, flags in cases.items():
        assert words in refusal("convert.py", *flags, output)
        assert not (tmp_path / "out").exists()
