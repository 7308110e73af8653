"""finetune.py and evaluate.py as a person starts them: three commands from images to a report."""

import csv
import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import nepa_keras
from nepa_keras import data, evaluation
from tests.helpers import source_files
from tests.helpers.scripts import refusal, run, run_here, run_python

SMALL = ["--data=digits", "--batch_size=64", "--steps=6"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "pretrained"
    result = run("pretrain.py", "--data=digits", "--steps=4", "--noevaluate", f"--run_dir={folder}")
    assert result.returncode == 0, result.stderr
    return folder / "ema"


@pytest.mark.first_on("torch")
def test_from_pretrained_weights_to_a_report(pretrained, tmp_path):
    folder = tmp_path / "run"
    result = run("finetune.py", *SMALL, f"--model={pretrained.parent}", f"--run_dir={folder}")
    assert result.returncode == 0, result.stderr
    assert f"--model={pretrained}\n" in (folder / "flags.txt").read_text()
    for words in (
        f"--model={pretrained.parent}: averaged weights of step 4, {pretrained}",
        "1,295 training images, 142 validation images, 10 classes",
        "float32, attention by ",
        "effective batch 64 (1 batch of 64 images per update, 1 process), 6 updates",
        "peak learning rate 0.002 * 64 / 256 = 0.0005",
        "block 0 matrices",
        "frozen",
        "validation accuracy: trained",
    ):
        assert words in result.stdout, result.stdout
    assert min(Image.open(folder / "curves.png").size) > 200
    report = (folder / "report.html").read_text()
    assert "best averaged weights" in report and '"pretrained":false' in report
    rows = list(csv.DictReader((folder / "log.csv").open()))
    assert len(rows) == 6 and all(0 <= float(row["val_accuracy"]) <= 1 for row in rows)
    assert all(0.0 < float(row["val_loss"]) < 20.0 for row in rows)
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
    last = folder / "checkpoints" / "step-00000006"
    models = f"{folder},{folder / 'trained'},{folder / 'ema'},{last}"
    flags = ["--data=digits", f"--confusion={picture}", f"--json={figures}"]
    result = run("evaluate.py", f"--model={models}", *flags)
    assert result.returncode == 0, result.stderr
    assert "360 images, 10 classes: top-1" in result.stdout and "ECE" in result.stdout
    assert f"--model={folder}: averaged weights of the best validation, at step " in result.stdout
    assert min(Image.open(picture).size) > 200
    held = json.loads(figures.read_text())
    assert len(held) == 4 and str(folder / "best") in held
    assert held[f"{last} (ema)"] == held[str(folder / "ema")] != held[str(folder / "trained")]
    for found in held.values():
        confusion = np.array(found["confusion"])
        assert confusion.sum() == 360 and np.trace(confusion) / 360 == pytest.approx(found["top1"])


@pytest.mark.once
@pytest.mark.full
def test_the_run_repeats_itself(pretrained, tmp_path):
    weights = []
    for folder in (tmp_path / "first", tmp_path / "again"):
        result = run("finetune.py", *SMALL, f"--model={pretrained}", f"--run_dir={folder}")
        assert result.returncode == 0, result.stderr
        weights.append((folder / "trained" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def finetuned(pretrained, folder, *flags) -> tuple[str, list[dict], dict]:
    """Output of a run, its log, and the configuration of the weights it keeps."""
    result = run("finetune.py", *SMALL, f"--model={pretrained}", f"--run_dir={folder}", *flags)
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader((folder / "log.csv").open()))
    return result.stdout, rows, json.loads((folder / "best" / "config.json").read_text())


def frozen(text: str) -> int:
    """Tensors in the row "frozen" of the printed table."""
    (count,) = re.findall(r"^frozen +(\d+) ", text, re.M) or ["0"]
    return int(count)


@pytest.mark.once
def test_adapters_are_trained_and_merged(pretrained, tmp_path):
    """Two scripts, about 20 s: what is kept is a plain model, which is measured in 8-bit integers, too."""
    folder = tmp_path / "run"
    text, _, config = finetuned(pretrained, folder, "--lora_rank=2", "--quantize=int8")
    assert frozen(text) > 0 and "lora_rank" not in config
    assert "best weights in 8-bit integers: " in text
    assert keras.saving.load_model(folder / "int8.keras").head.quantization_mode == "int8"
    before = nepa_keras.NepaBackbone.from_preset(pretrained)
    after = nepa_keras.NepaBackbone.from_preset(folder / "trained")
    theirs = {nepa_keras.clone.relative_path(v): v for v in before.trainable_variables}
    for variable in after.trainable_variables:
        path = nepa_keras.clone.relative_path(variable)
        if path in theirs:  # the classifier's QK-norm has scales
            moved = np.any(np.asarray(variable) != np.asarray(theirs[path]))
            assert moved == (path.startswith("block") and path.endswith("/kernel")), path
    result = run("evaluate.py", f"--model={folder / 'best'}", "--data=digits", "--quantize=int8")
    assert result.returncode == 0 and "360 images, 10 classes: top-1" in result.stdout
    flags = [f"--model={pretrained}", "--from_scratch", "--lora_rank=2"]
    assert "adapts trained weights" in refusal("finetune.py", *SMALL, *flags)


@pytest.mark.once
@pytest.mark.full
def test_few_labels_from_scratch(pretrained, tmp_path):
    flags = ["--num_labels=50", "--from_scratch", "--augmentation=none", "--batch_size=64"]
    text, _, _ = finetuned(pretrained, tmp_path / "run", *flags)
    assert "50 training images" in text and "from scratch" in text and frozen(text) == 0
    assert "effective batch 50" in text


@pytest.mark.once
@pytest.mark.full
def test_keras_cv_trains_other_images(pretrained, tmp_path):
    _, rows, _ = finetuned(pretrained, tmp_path / "theirs", "--augmentation=keras_cv")
    _, ours, _ = finetuned(pretrained, tmp_path / "ours")
    assert [row["loss"] for row in rows[1:]] != [row["loss"] for row in ours[1:]]


@pytest.mark.once
@pytest.mark.full
def test_one_warmup_a_moving_decay_and_accumulation(pretrained, tmp_path):
    """The form of the paper's recipe: 0.3 epochs of 20 batches are 3 of 6 updates of 2."""
    flags = ["--noown_warmup", "--final_layer_decay=1", "--layer_decay_course=linear", "--causal"]
    flags += ["--pooling=last", "--noqk_norm_scale", "--warmup_epochs=0.3"]
    flags += ["--accumulation_steps=2", "--freeze=patch_embedding,block_0"]
    text, rows, config = finetuned(pretrained, tmp_path / "run", *flags)
    warmups = {line.split()[-2] for line in text.splitlines() if re.match(r"(block|head|fc)", line)}
    assert warmups == {"3"} and frozen(text) == 3 + 14
    assert "effective batch 128 (2 batches of 64 images per update" in text
    assert not config["add_pooling_layer"] and not config["qk_norm_affine"]
    assert config["is_causal"] and int(rows[-1]["step"]) == 12 and len(rows) == 6
    assert all(0 <= float(row["ema_val_accuracy"]) <= 1 for row in rows)


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
    assert "12 training images, 12 validation images" in result.stdout
    converter = data.NepaImageConverter.from_preset(folder / "best")
    assert converter.resize_to == 20 and converter.interpolation == "bicubic"
    result = run_here("evaluate.py", f"--model={folder / 'best'}", f"--data={text}")
    assert result.returncode == 0 and "12 images" in result.stdout, result.stderr
    assert nepa_keras.NepaImageClassifier.from_preset(folder / "best").class_names

    (tmp_path / "images" / source_files.CLASSES[0] / "00.png").write_bytes(b"no image")
    flags = [f"--model={folder / 'best'}", f"--data={text}", "--bad_images_share=0"]
    result = run_here("evaluate.py", *flags)
    assert result.returncode == 4 and "00.png: no image of a known format" in result.stderr
    assert "Traceback" not in result.stderr
    result = run_here("evaluate.py", *flags[:2])
    assert "left out: " in result.stdout and "11 images" in result.stdout


@pytest.fixture(scope="module")
def small_model(tmp_path_factory) -> Path:
    """A pretrained model of pictures of 16x16, and beside it pictures with their labels in a CSV file."""
    place = tmp_path_factory.mktemp("csv")
    backbone = nepa_keras.NepaBackbone(
        image_shape=(16, 16, 3), patch_size=8, hidden_dim=16, num_layers=2, num_heads=2, mlp_dim=16
    )
    nepa_keras.interop.export_huggingface(nepa_keras.NepaPretrainer(backbone), place / "model")
    (place / "pictures").mkdir()
    for i in range(12):
        (place / "pictures" / f"{i}.png").write_bytes(source_files.png(i))
    tags = ("cat|dog", "dog", "", "cat")
    rows = "".join(f"{i},{tags[i % 4]},{'ab'[i % 2]}\n" for i in range(12))
    (place / "labels.csv").write_text("id,tags,kind\n" + rows)
    return place


@pytest.mark.once
def test_several_labels_an_image_from_a_csv_to_predictions(small_model, tmp_path):
    """The loss, mAP in log and report, the command for evaluate.py, a table; in this process, about 12 s."""
    table, folder = small_model / "labels.csv", tmp_path / "run"
    labels = [f"--data=csv:{table}", f"--data_dir={small_model / 'pictures'}"]
    labels += ["--label_column=tags", "--multi_label", "--label_separator=|"]
    run_flags = [f"--model={small_model / 'model'}", f"--run_dir={folder}", "--steps=2"]
    run_flags += ["--batch_size=4", "--validation_share=0.4"]
    result = run_here("finetune.py", *run_flags, *labels)
    assert result.returncode == 0, result.stderr
    assert "which show none of the classes: 3" in result.stdout and "2 classes" in result.stdout
    assert "validation mAP: trained" in result.stdout
    first, last = csv.DictReader((folder / "log.csv").open())
    assert float(first["loss"]) == pytest.approx(np.log(2), abs=1e-3)  # of a head of zeros
    assert 0 < float(last["ema_val_map"]) <= 1 and "val_accuracy" not in last
    assert "mAP on validation images in %" in (folder / "report.html").read_text()

    predictions, figures = tmp_path / "predictions.csv", tmp_path / "figures.json"
    outputs = [f"--predictions={predictions}", f"--json={figures}"]
    result = run_here("evaluate.py", f"--model={folder}", *labels, *outputs)
    assert result.returncode == 0, result.stderr
    assert "12 images, 2 classes, 1.00 labels an image: mAP " in result.stdout
    rows = list(csv.DictReader(predictions.open()))
    assert [row["label"] for row in rows[:4]] == ["cat|dog", "dog", "", "cat"]
    (found,) = json.loads(figures.read_text()).values()
    logits = [
        [float(r[f"probability_{1 + (r['class_1'] != c)}"]) for c in ("cat", "dog")] for r in rows
    ]
    targets = np.array([[tag in row["label"] for tag in ("cat", "dog")] for row in rows], int)
    again = [evaluation.average_precision(np.array(logits)[:, k], targets[:, k]) for k in (0, 1)]
    assert found["mean_average_precision"] == pytest.approx(np.mean(again), abs=0.02)

    # Pictures without labels: predictions alone.
    unlabelled = f"--data=folder:{small_model / 'pictures'}"
    result = run_here("evaluate.py", f"--model={folder}", unlabelled, outputs[0])
    assert result.returncode == 0 and "12 images without labels" in result.stdout, result.stderr
    rows = list(csv.DictReader(predictions.open()))
    assert len(rows) == 12 and rows[0]["name"].endswith("0.png") and rows[0]["label"] == ""
    twice = ["--weights=ema", "--weights=trained"]
    for words, flags in {
        "trained for several classes per image; add --multi_label": [
            *labels[:2], "--label_column=kind",
        ],
        "--predictions takes one model": [*labels, outputs[0], *twice],
        "has no labels, which --confusion and --json need": [unlabelled, *outputs],
        "--confusion needs one class per image": [*labels, "--confusion=a.png"],
    }.items():  # fmt: skip
        assert words in refusal("evaluate.py", f"--model={folder}", *flags), words
    for words, flags in {
        "--num_labels takes equally many images of each class": ["--num_labels=4"],
        "--augmentation=keras_cv supports one class per image": ["--augmentation=keras_cv"],
        "has one class an image; several": [f"--validation_data=folder:{small_model}"],
    }.items():
        assert words in refusal("finetune.py", *run_flags[:1], *labels, *flags), words


@pytest.mark.once
def test_wrong_flags_are_refused(pretrained, tmp_path):
    cases = {
        "--model is required": ["finetune.py", *SMALL],
        "no variable 'block_9' to freeze": [
            "finetune.py", *SMALL, f"--model={pretrained}", "--freeze=block_9",
        ],
        "--resize_to=wide must be whole numbers": [
            "finetune.py", *SMALL, f"--model={pretrained}", "--resize_to=wide",
        ],
        "num_labels=5 must be at least the 10 classes": [
            "finetune.py", *SMALL, f"--model={pretrained}", "--num_labels=5",
        ],
        "needs own_warmup=False": [
            "finetune.py", *SMALL, f"--model={pretrained}", "--final_layer_decay=0.9",
        ],
        "no preset or folder '/missing'": ["evaluate.py", "--model=/missing", "--data=digits"],
    }  # fmt: skip
    for words, (script, *flags) in cases.items():
        extra = [f"--run_dir={tmp_path / 'run'}"] if script == "finetune.py" else []
        said = refusal(script, *flags, *extra)
        assert words in said, said


@pytest.mark.once
def test_classes_of_validation_are_those_of_training(tmp_path):
    """A validation folder that lacks the first class counts the others from 0; names set it right."""
    source_files.folder(tmp_path)
    rest = tmp_path / "rest"
    for name in source_files.CLASSES[1:]:
        (rest / name).mkdir(parents=True)
        for file in (tmp_path / "images" / name).iterdir():
            if file.is_file():
                shutil.copy(file, rest / name)
    backbone = nepa_keras.NepaBackbone(
        image_shape=(16, 16, 3), patch_size=8, hidden_dim=16, num_layers=2, num_heads=2, mlp_dim=16
    )
    classifier = nepa_keras.NepaImageClassifier(
        backbone, len(source_files.CLASSES), class_names=source_files.CLASSES
    )
    last = len(source_files.CLASSES) - 1  # whatever it sees
    classifier.head.bias.assign(np.eye(last + 1)[last] * 9)
    nepa_keras.interop.export_huggingface(classifier, tmp_path / "model")
    figures = tmp_path / "figures.json"
    run_flags = [f"--model={tmp_path / 'model'}", f"--data=folder:{rest}", f"--json={figures}"]
    result = run_here("evaluate.py", *run_flags)
    assert result.returncode == 0, result.stderr
    (found,) = json.loads(figures.read_text()).values()
    assert found["class_accuracies"][source_files.CLASSES[last]] == 1.0
    assert found["class_accuracies"][source_files.CLASSES[0]] is None
    (rest / "unheard").mkdir()
    shutil.copy(next((rest / source_files.CLASSES[1]).iterdir()), rest / "unheard")
    assert "does not know: unheard" in refusal("evaluate.py", *run_flags)


@pytest.mark.once
def test_a_run_says_where_it_leaves_the_recipe():
    code = """
import sys; sys.path.insert(0, "experiments")
import finetune
from recipe_check import departures
from pathlib import Path

keys = finetune.FLAGS.get_key_flags_for_module("finetune")
some = ["--mixup=0", "--batch_size=64", "--steps=9", "--from_scratch", "--num_labels=50"]
for source, extra in (("paper", []), ("released", []), ("released", some)):
    recipe = Path(f"experiments/recipes/{source}_finetune_base.flags")
    finetune.FLAGS.unparse_flags()
    finetune.FLAGS(["finetune.py", f"--flagfile={recipe}", "--model=any", *extra])
    values = {"batch_size": finetune.FLAGS.batch_size * 16, "freeze": []} if extra else {}
    print(departures(recipe, keys, values))
"""
    result = run_python("-c", code)
    assert result.returncode == 0, result.stderr
    *none, some = result.stdout.splitlines()[-3:]
    assert none == ["[]", "[]"]
    for words in (
        "mixup 0.0 (there 0.8)",
        "steps 9 (there None)",
        "from_scratch True",
        "freeze []",
    ):
        assert words in some, some
    assert "num_labels 50 (there None)" in some and "batch_size" not in some
