"""experiments/convert.py as a person starts it, on folders made from the reference numbers."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import golden_files
import keras
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[2]


def convert(*flags, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "convert.py"), *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture
def pretrained(tmp_path):
    golden = golden_files.GOLDEN / "conversion"
    folder = tmp_path / "pretrained"
    folder.mkdir()
    shutil.copy(golden / "before_config.json", folder / "config.json")
    shutil.copy(golden / "before.safetensors", folder / "model.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return folder


def differences(stdout: str) -> list[float]:
    return [float(x) for x in re.findall(r"^largest difference, .*: (\S+)$", stdout, re.MULTILINE)]


@pytest.mark.once
def test_import_conversion_and_export(pretrained, tmp_path):
    """Official to ours, ours to a folded classifier in the official layout, which is the golden one."""
    ours, after = tmp_path / "ours", tmp_path / "after"
    result = convert(f"--source={pretrained}", f"--output={ours}")
    assert result.returncode == 0, result.stderr
    assert differences(result.stdout) == [0.0]
    assert "patch_embeddings.projection.weight (32, 3, 7, 7) float32 ->" in result.stdout
    result = convert(
        f"--source={ours}",
        f"--output={after}",
        "--to=huggingface",
        "--model=classifier",
        "--num_classes=10",
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


@pytest.mark.once
def test_a_training_checkpoint_is_exported_with_its_averaged_weights(tmp_path):
    import tiny

    import nepa_keras

    model = tiny.pretrainer()
    model.compile(optimizer=nepa_keras.training.adamw(0.1, ema_decay=0.5))
    model.fit(tiny.images(8), batch_size=4, verbose=0)
    model.save(tmp_path / "checkpoint.keras")
    output = tmp_path / "official"
    result = convert(
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


def test_a_saved_model_gives_the_numbers_of_the_model(pretrained, tmp_path):
    """Features of a backbone and logits of a classifier, run by TensorFlow; torch says what to do."""
    for model in ("backbone", "classifier"):
        result = convert(
            f"--source={pretrained}",
            f"--model={model}",
            *(["--num_classes=10"] if model == "classifier" else []),
            "--to=saved_model",
            f"--output={tmp_path / model}",
        )
        if keras.backend.backend() == "torch":
            assert result.returncode == 1 and "Traceback" not in result.stderr
            assert "torch backend" in result.stderr
        else:
            assert result.returncode == 0, result.stderr
            *_, of_artefact = differences(result.stdout)
            assert of_artefact < 5e-5


@pytest.mark.once
def test_what_is_wrong_gets_one_sentence(pretrained, tmp_path):
    output = f"--output={tmp_path / 'out'}"
    cases = {
        "no preset or folder": ["--source=nowhere"],
        "no whole .keras file": ["--source=nothing.keras"],
        "num_classes": [f"--source={pretrained}", "--model=classifier"],
        "no pytorch_model_ema.bin": [f"--source={pretrained}", "--ema"],
        "not a readable image": [f"--source={pretrained}", "--image=nothing.png"],
    }
    for words, flags in cases.items():
        result = convert(*flags, output)
        assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
        assert words in result.stderr
        assert not (tmp_path / "out").exists()
