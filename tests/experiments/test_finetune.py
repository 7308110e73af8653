"""finetune.py and evaluate.py as a person starts them: three commands from images to a report."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import source_files
from PIL import Image

import nepa_keras
from nepa_keras import data, evaluation

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "experiments" / "recipes"
SMALL = ["--data=digits", "--batch_size=64", "--steps=6"]


def run(script: str, *flags) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "experiments" / script), *map(str, flags)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "pretrained"
    result = run("pretrain.py", "--data=digits", "--steps=4", "--noevaluate", f"--run_dir={folder}")
    assert result.returncode == 0, result.stderr
    return folder / "ema"


def test_from_pretrained_weights_to_a_report(pretrained, tmp_path):
    folder = tmp_path / "run"
    result = run("finetune.py", *SMALL, f"--model={pretrained}", f"--run_dir={folder}")
    assert result.returncode == 0, result.stderr
    for words in (
        "1,295 images to train on, 142 to validate with, 10 classes",
        "effective batch 64 (1 batch of 64 images an update, 1 process), 6 updates",
        "peak learning rate 0.002 * 64 / 256 = 0.0005",
        "block 0 matrices",
        "frozen",
        "validation accuracy: trained",
    ):
        assert words in result.stdout, result.stdout
    assert min(Image.open(folder / "curves.png").size) > 200
    rows = list(csv.DictReader((folder / "log.csv").open()))
    assert len(rows) == 6 and all(0 <= float(row["val_accuracy"]) <= 1 for row in rows)
    best = max(float(row["ema_val_accuracy"]) for row in rows)

    # The kept weights are the best ones, and evaluate.py measures what finetune.py did.
    source = data.open_source("digits")
    _, held = data.held_out(source.labels, 0.1, seed=1337)
    classifier = nepa_keras.NepaImageClassifier.from_preset(folder / "best")
    ordered = data.OrderedBatches(
        data.SubsetSource(source, held),
        64,
        8,
        data.NepaImageConverter.from_preset(folder / "best").transform(),
        channels=1,
    )
    logits, indices = evaluation.predict_batches(classifier, ordered)
    report = evaluation.classification_report(logits, source.labels[held][indices])
    assert report.top1 == pytest.approx(best)

    picture, figures = tmp_path / "confusion.png", tmp_path / "figures.json"
    models = f"{folder / 'best'},{folder / 'trained'}"
    flags = ["--data=digits", f"--confusion={picture}", f"--json={figures}"]
    result = run("evaluate.py", f"--model={models}", *flags)
    assert result.returncode == 0, result.stderr
    assert "360 images, 10 classes: top-1" in result.stdout and "ECE" in result.stdout
    assert min(Image.open(picture).size) > 200
    held = json.loads(figures.read_text())
    assert len(held) == 2
    for found in held.values():
        confusion = np.array(found["confusion"])
        assert confusion.sum() == 360 and np.trace(confusion) / 360 == pytest.approx(found["top1"])


@pytest.mark.once
def test_the_run_repeats_itself_and_other_settings_work(pretrained, tmp_path):
    weights = []
    for folder in (tmp_path / "first", tmp_path / "again"):
        result = run("finetune.py", *SMALL, f"--model={pretrained}", f"--run_dir={folder}")
        assert result.returncode == 0, result.stderr
        weights.append((folder / "trained" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    others = {
        "few labels from scratch": ["--num_labels=50", "--from_scratch", "--augmentation=none"],
        "keras_cv": ["--augmentation=keras_cv", "--rand_augment=1"],
        "other schedule": ["--noown_warmup", "--final_layer_decay=0.9", "--freeze="],
        "accumulation": ["--accumulation_steps=2", "--freeze=patch_embedding,block_0", "--causal"],
    }
    for name, flags in others.items():
        folder = tmp_path / name.replace(" ", "_")
        result = run("finetune.py", *SMALL, f"--model={pretrained}", f"--run_dir={folder}", *flags)
        assert result.returncode == 0, (name, result.stderr)
        assert ("frozen" in result.stdout) == (
            name not in ("few labels from scratch", "other schedule")
        )


@pytest.mark.once
def test_pictures_on_disk_with_a_validation_set_of_their_own(tmp_path):
    text = source_files.folder(tmp_path)
    model = tmp_path / "model"
    backbone = nepa_keras.NepaBackbone(
        image_shape=(16, 16, 3), patch_size=8, hidden_dim=16, num_layers=2, num_heads=2, mlp_dim=16
    )
    nepa_keras.interop.export_huggingface(nepa_keras.NepaPretrainer(backbone), model)
    flags = [f"--model={model}", f"--data={text}", f"--validation_data={text}", "--batch_size=4"]
    folder = tmp_path / "run"
    result = run("finetune.py", *flags, "--steps=3", "--resize_to=20", f"--run_dir={folder}")
    assert result.returncode == 0, result.stderr
    assert "12 images to train on, 12 to validate with" in result.stdout
    converter = data.NepaImageConverter.from_preset(folder / "best")
    assert converter.resize_to == 20 and converter.interpolation == "bicubic"
    result = run("evaluate.py", f"--model={folder / 'best'}", f"--data={text}")
    assert result.returncode == 0 and "12 images" in result.stdout, result.stderr
    assert nepa_keras.NepaImageClassifier.from_preset(folder / "best").class_names


@pytest.mark.once
def test_wrong_flags_get_one_sentence(pretrained, tmp_path):
    cases = {
        "--model names what to fine-tune": ["finetune.py", *SMALL],
        "no variable 'block_9' to freeze": [
            "finetune.py", *SMALL, f"--model={pretrained}", "--freeze=block_9",
        ],
        "--resize_to=wide is no number": [
            "finetune.py", *SMALL, f"--model={pretrained}", "--resize_to=wide",
        ],
        "num_labels=5 must be at least the 10 classes": [
            "finetune.py", *SMALL, f"--model={pretrained}", "--num_labels=5",
        ],
        "is for own_warmup=False": [
            "finetune.py", *SMALL, f"--model={pretrained}", "--final_layer_decay=0.9",
        ],
        "no preset or folder '/missing'": ["evaluate.py", "--model=/missing", "--data=digits"],
    }  # fmt: skip
    for words, (script, *flags) in cases.items():
        extra = [f"--run_dir={tmp_path / 'run'}"] if script == "finetune.py" else []
        result = run(script, *flags, *extra)
        assert result.returncode == 1 and words in result.stderr, result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.once
def test_a_run_says_where_it_leaves_the_recipe():
    code = (
        "import sys; sys.path.insert(0, 'experiments')\n"
        "import finetune, command_line\n"
        "from pathlib import Path\n"
        "recipe = Path('experiments/recipes/finetune_base.flags')\n"
        "for extra in ([], ['--mixup=0', '--batch_size=64', '--causal', '--noown_warmup']):\n"
        "    finetune.FLAGS.unparse_flags()\n"
        "    finetune.FLAGS(['finetune.py', f'--flagfile={recipe}', *extra])\n"
        "    effective = {'batch_size': finetune.FLAGS.batch_size * 16}\n"
        "    print(command_line.departures(recipe, effective if extra else {}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    none, some = result.stdout.splitlines()[-2:]
    assert none == "[]"
    assert "mixup 0.0 (there 0.8)" in some and "causal True (there False)" in some
    assert "own_warmup False (there True)" in some and "batch_size" not in some
