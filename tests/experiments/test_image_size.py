"""--image_size in each script that takes weights: what is made for another size, also not square."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

import nepa_keras
from nepa_keras import data
from tests.helpers import pairs, source_files, tiny
from tests.helpers.scripts import refusal, run_here

SIZE = (16, 24)
pytestmark = pytest.mark.filterwarnings("ignore:The authors' code has no learned positions")


def succeed(script: str, *flags) -> str:
    result = run_here(script, *flags)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def weights(tmp_path):
    """A folder with weights for images of 8x8, with learned positions, which have a grid."""
    model = tiny.pretrainer(image_shape=(8, 8, 3), position_embedding="learned")
    nepa_keras.interop.export_huggingface(model, tmp_path / "weights")
    return tmp_path / "weights"


@pytest.mark.first_on("torch")
def test_a_classifier_of_another_size_from_fine_tuning_to_an_artefact(weights, tmp_path):
    images, run = source_files.folder(tmp_path), tmp_path / "run"
    flags = [f"--model={weights}", f"--data={images}", "--batch_size=4", "--image_size=16,24"]
    training = ["--validation_share=0.4", "--resize_to=24,30", "--steps=2", f"--run_dir={run}"]
    assert "as 16x24x3" in succeed("finetune.py", *flags, *training)
    model = nepa_keras.NepaImageClassifier.from_preset(run / "best")
    assert model.backbone.image_shape == (*SIZE, 3) and model.backbone.positions.grid == (4, 6)
    converter = data.NepaImageConverter.from_preset(run / "best")
    assert (converter.image_size, converter.resize_to) == (SIZE, (24, 30))

    best = [f"--model={run / 'best'}", f"--data={images}"]
    as_trained = succeed("evaluate.py", *best, f"--json={tmp_path / 'own.json'}")
    same = succeed("evaluate.py", *best, "--image_size=16,24", f"--json={tmp_path / 'same.json'}")
    assert "12 images" in as_trained and "12 images" in same
    figures = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("own", "same")]
    assert figures[0] == figures[1]

    served = "onnx" if keras.backend.backend() == "torch" else "saved_model"
    for kind in ("huggingface", served):
        output = tmp_path / f"converted.{kind}"
        given = [f"--source={run / 'best'}", f"--to={kind}", "--image_size=32,16"]
        said = succeed("convert.py", *given, f"--output={output}")
        differences = [float(line.split()[-1]) for line in said.splitlines() if "largest" in line]
        assert differences and max(differences) < 5e-5
    config = json.loads((tmp_path / "converted.huggingface" / "config.json").read_text())
    assert config["image_size"] == [32, 16]
    larger = data.NepaImageConverter.from_preset(tmp_path / "converted.huggingface")
    assert (larger.image_size, larger.resize_to) == ((32, 16), (48, 20))


@pytest.mark.first_on("torch")
def test_features_and_pictures_of_another_size(weights, tmp_path):
    images, out = source_files.folder(tmp_path), tmp_path / "pictures"
    flags = [f"--model={weights}", f"--data={images}", "--image_size=16,24"]
    some = [f"--test_data={images}", "--probes=knn", "--k=1", "--blocks=norm", "--batch_size=6"]
    assert "bidirectional, norm, mean" in succeed("probe.py", *flags, *some)
    Image.fromarray(source_files.pixels(0)).save(tmp_path / "one.jpg")
    shown = [f"--images={tmp_path / 'one.jpg'}", "--pictures=similarity", f"--output={out}"]
    succeed("visualize.py", *flags, *shown)
    assert Image.open(out / "similarity.png").width > 100
    assert "outside of this model's 4x6 patches" in refusal(
        "visualize.py", *flags, *shown, "--patch=5,1"
    )


@pytest.mark.full
def test_a_segmenter_is_trained_on_crops_and_looks_through_windows_of_that_size(weights, tmp_path):
    run, draw = tmp_path / "run", np.random.default_rng(0).integers
    for number in range(4):
        size = (20 + number, 40)
        pairs.write(tmp_path / "pairs/images" / f"{number}.png", draw(0, 256, (*size, 3), np.uint8))
        pairs.write(tmp_path / "pairs/masks" / f"{number}.png", draw(0, 3, size, np.uint8))
    (tmp_path / "pairs/classes.txt").write_text("one\ntwo\nthree\n")
    flags = [f"--model={weights}", f"--data=pairs:{tmp_path / 'pairs'}", "--image_size=16,24"]
    flags += [f"--run_dir={run}"]
    small = ["--head=linear", "--batch_size=2", "--steps=2", "--warmup_steps=1"]
    small += ["--validations=1", "--validation_share=0.25"]
    assert "training images as 16x24" in succeed("segment.py", *flags, *small)
    model = nepa_keras.NepaImageSegmenter.from_preset(run / "best")
    assert model.backbone.image_shape == (*SIZE, 3)
    pixels = draw(0, 256, (20, 40, 3), np.uint8)
    labels = nepa_keras.evaluation.ImageSegmenter(model, window=SIZE).labels(pixels)
    pairs.write(tmp_path / "new/a.png", pixels)
    asked = ["--mode=predict", f"--model={run / 'best'}", f"--images={tmp_path / 'new'}"]
    succeed("segment.py", *asked, "--image_size=16,24", f"--run_dir={tmp_path / 'masks'}")
    np.testing.assert_array_equal(Image.open(tmp_path / "masks" / "masks" / "a.png"), labels)
    said = refusal("segment.py", *flags[:3], "--crop_size=16", small[-1])
    assert "--image_size=16,24 and --crop_size=16 both give the size of the training" in said
