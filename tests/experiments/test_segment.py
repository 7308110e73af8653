"""segment.py as a person starts it: train, evaluate, predict, on scenes and on a tree as ADE20K's."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nepa_keras
from nepa_keras.visualization import class_colors
from tests.helpers import tiny
from tests.helpers.pairs import ade_tree
from tests.helpers.scripts import refusal, run, run_here

pytestmark = pytest.mark.once
SMALL = ["--steps=4", "--warmup_steps=1", "--batch_size=2", "--channels=8", "--validations=2"]
RECIPE = Path(__file__).parents[2] / "experiments" / "recipes" / "segment_ade20k_base.flags"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny.exported("nepa_micro_patch2_8", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def trained(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    flags = [
        f"--model={model}",
        "--data=scenes:digits",
        "--evaluate_images=6",
        f"--run_dir={folder}",
    ]
    result = run("segment.py", *flags, *SMALL, "--taps=0,1,1,2")
    assert result.returncode == 0, result.stderr
    assert "heads matrices" in result.stdout and "best mIoU" in result.stdout
    return folder


def test_training_leaves_weights_log_and_pictures(trained):
    for name in ("examples.png", "curves.png", "report.html", "flags.txt", "checkpoint.keras"):
        assert (trained / name).stat().st_size > 0
    with Image.open(trained / "examples.png") as picture:
        assert picture.width > 300 and len(picture.convert("RGB").getcolors(10**6)) > 50
    header = (trained / "log.csv").read_text().splitlines()[0]
    assert "val_miou" in header and "ema_val" not in header
    for kind in ("best", "trained"):
        segmenter = nepa_keras.NepaImageSegmenter.from_preset(trained / kind)
        assert segmenter.class_names[0] == "background" and segmenter.num_classes == 11


def test_evaluation_prints_every_class(trained):
    flags = [f"--model={trained / 'best'}", "--data=scenes:digits", "--evaluate_images=6"]
    flags += ["--window=8", "--flip", "--scales=1,2"]
    result = run_here("segment.py", "--mode=evaluate", *flags)
    assert result.returncode == 0, result.stderr
    rows = result.stdout.splitlines()
    while not rows[0].startswith("class"):  # progress
        rows.pop(0)
    assert rows[0].split() == ["class", "IoU", "accuracy", "pixels"] and rows[1].startswith(
        "background"
    )
    assert sum(int(row.split()[-1].replace(",", "")) for row in rows[1:12]) == 6 * 16 * 16


def test_prediction_writes_a_mask_for_each_picture(trained, tmp_path):
    pictures = tmp_path / "pictures" / "deep"
    pictures.mkdir(parents=True)
    Image.fromarray(np.zeros((13, 21), np.uint8)).save(pictures / "a.png")
    (pictures / "b.jpg").write_bytes(b"no picture")
    for name in ("c.png", "c.jpg"):
        Image.fromarray(np.zeros((9, 8), np.uint8)).save(pictures / name)
    flags = ["--mode=predict", f"--model={trained / 'best'}", f"--images={tmp_path / 'pictures'}"]
    result = run_here("segment.py", *flags, f"--run_dir={tmp_path / 'out'}")
    assert result.returncode == 0, result.stderr
    assert "left out: " in result.stdout and "b.jpg" in result.stdout
    written = sorted(path.name for path in (tmp_path / "out" / "masks" / "deep").iterdir())
    assert written == ["a.png", "c.jpg.png", "c.png.png"]
    mask = np.array(Image.open(tmp_path / "out" / "masks" / "deep" / "a.png"))
    assert mask.shape == (13, 21) and mask.max() < 11
    # Class numbers that programs show in the colours of the legend.
    with Image.open(tmp_path / "out" / "masks" / "deep" / "a.png") as shown:
        assert shown.mode == "P"
        colors = np.asarray(shown.convert("RGB"))
    np.testing.assert_array_equal(colors, class_colors(11)[mask])
    assert min(Image.open(tmp_path / "out" / "legend.png").size) > 100
    assert Image.open(tmp_path / "out" / "overlays" / "deep" / "a.png").size == (21, 13)


@pytest.mark.full
def test_a_tree_as_ade20ks_with_the_recipes_flags(tmp_path):
    """The official recipe on a small tree; only the budget and the size are others."""
    ade_tree(tmp_path / "ADEChallengeData2016")
    small = {"num_layers": 4, "hidden_dim": 32, "num_heads": 2, "mlp_dim": 32}
    folder = tiny.exported(
        "nepa_base_patch14_224", tmp_path / "model", image_shape=(56, 56, 3), **small
    )
    flags = [f"--flagfile={RECIPE}", f"--model={folder}", f"--data=ade20k:{tmp_path}", *SMALL]
    sizes = ["--crop_size=56", "--fit=128,56", "--window=56", "--stride=40"]
    result = run("segment.py", *flags, *sizes, f"--run_dir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr
    assert "150 classes" in result.stdout and "mixed_bfloat16" in result.stdout
    assert (tmp_path / "run" / "examples.png").exists()


WRONG = {
    "--model is required: weights to start from": [],
    "--taps=0,1 must be 4 whole numbers": ["--model={model}", "--taps=0,1"],
    "There are no images with masks 'coco'": [
        f"--flagfile={RECIPE}",
        "--model={model}",
        "--data=coco",
    ],
    "has 1 channels, --data=": ["--model={model}", "--data=ade20k:{tree}", "--crop_size=56"],
    "--image_size, the size of the training images, is required": [
        "--model={model}",
        "--data=ade20k:{tree}",
    ],
    "--mode=predict needs --images": ["--mode=predict"],
    "--model is required: a trained segmenter": ["--mode=evaluate"],
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_flags_are_refused(words, model, tmp_path):
    ade_tree(tmp_path / "ade", 2, 1)
    flags = [flag.format(model=model, tree=tmp_path / "ade") for flag in WRONG[words]]
    assert words in refusal("segment.py", *flags, f"--run_dir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()
