"""pretrain.py --model: training that goes on from given weights."""

import csv
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

import nepa_keras
from nepa_keras import data
from tests.helpers import source_files, tiny
from tests.helpers.scripts import refusal, run_here


@pytest.mark.first_on("torch")
def test_it_begins_at_the_weights_and_resumes_bit_for_bit(tmp_path):
    """Another image size, from the averages of a classifier, without its head and drop path."""
    images, weights, run = source_files.folder(tmp_path), tmp_path / "weights", tmp_path / "run"
    backbone = tiny.pretrainer(image_shape=(8, 8, 3), drop_path_rate=0.5).backbone
    classifier = nepa_keras.NepaImageClassifier(backbone, 3, use_causal_mask=False)
    nepa_keras.interop.export_huggingface(classifier, weights)
    flags = [f"--model={weights}", f"--data={images}", "--image_size=8,12", "--batch_size=4"]
    flags += ["--steps=4", "--keep_every=2", f"--run_dir={run}"]
    result = run_here("pretrain.py", *flags)
    assert result.returncode == 0, result.stderr
    assert "12 images per epoch, as 8x12x3" in result.stdout

    given = nepa_keras.NepaPretrainer.from_preset(weights, image_size=(8, 12), use_causal_mask=True)
    tiny.compile_model(given)
    source = data.open_source(images)
    (batch,) = next(data.AugmentedBatches(source, 4, (8, 12), seed=1337).endless())
    first = next(csv.DictReader((run / "log.csv").open()))
    assert first["step"] == "1"
    assert float(first["loss"]) == pytest.approx(given.evaluate(batch, verbose=0)["loss"], abs=1e-5)
    assert json.loads((run / "ema" / "config.json").read_text())["image_size"] == [8, 12]

    measured = tmp_path / "loss.json"
    of_loss = [f"--model={run}", f"--data={images}", "--batch_size=8", f"--json={measured}"]
    result = run_here("evaluate.py", *of_loss)
    assert result.returncode == 0 and "12 images: pretraining loss" in result.stdout, result.stderr
    (found,) = json.loads(measured.read_text()).values()
    converter = data.NepaImageConverter.from_preset(run / "ema")
    whole = converter([source.name(i) for i in range(len(source))])
    averaged = nepa_keras.NepaPretrainer.from_preset(run / "ema")
    averaged.compile()
    assert found["loss"] == pytest.approx(averaged.evaluate(whole, verbose=0)["loss"], abs=1e-6)

    # As after a kill: what came behind the checkpoint of step 2 is lost.
    expected = load_file(run / "ema" / "model.safetensors")
    shutil.rmtree(run / "ema")
    for step in (3, 4):
        shutil.rmtree(run / "checkpoints" / f"step-0000000{step}")
    (run / "checkpoint.keras").unlink()
    again = run_here("pretrain.py", *flags)
    assert again.returncode == 0 and "resuming from step 2" in again.stdout, again.stderr
    found = load_file(run / "ema" / "model.safetensors")
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.only_on("torch")
@pytest.mark.parametrize(
    "flag, has",
    [("--positions=learned", "positions rope"), ("--noqk_norm", "qk_norm True")],
)
def test_another_architecture_than_that_of_the_weights_is_refused(flag, has, tmp_path):
    nepa_keras.interop.export_huggingface(tiny.pretrainer(), tmp_path / "weights")
    said = refusal("pretrain.py", f"--model={tmp_path / 'weights'}", "--data=digits", flag)
    assert "contradicts --model=" in said and f"which has {has}; leave the flag out" in said
