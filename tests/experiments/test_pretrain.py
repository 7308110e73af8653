"""experiments/pretrain.py as a person starts it: a process, real images, wrong flags."""

import json
import re

import keras
import numpy as np
import pytest
from PIL import Image

import nepa_keras
from tests.helpers import source_files
from tests.helpers.scripts import refusal, run, run_here

SHORT = ["--data=digits", "--batch_size=32", "--num_labels=20", "--finetune_steps=2"]


@pytest.mark.first_on("torch")
def test_a_short_run_on_digits_and_its_repetition(tmp_path):
    """All that a run leaves can be opened, and its flags give the same weights again."""
    folder = tmp_path / "run"
    result = run("pretrain.py", *SHORT, "--steps=6", f"--run_dir={folder}")
    assert result.returncode == 0, result.stderr
    for words in ("1,408 images per epoch", "150,848 parameters", "matrices", "effective batch 32"):
        assert words in result.stdout
    table = result.stdout[result.stdout.index("gain from pretraining") :]
    assert all(words in table for words in ("20 labels, 2 steps, 3 seeds", "k-NN", "linear probe"))

    for picture in ("curves.png", "similarity.png"):
        assert min(Image.open(folder / picture).size) > 200
    report = (folder / "report.html").read_text()
    assert "Gain from pretraining" in report and '"pretrained":true' in report
    assert len(list(folder.glob("events.out.*.pictures"))) == 1
    model = keras.saving.load_model(folder / "checkpoint.keras")
    assert int(model.optimizer.iterations) == 6
    from safetensors.numpy import load_file

    averages = load_file(folder / "ema" / "model.safetensors")
    nepa_keras.interop.load_official_tensors(model, averages)
    assert np.isfinite(model.evaluate(np.zeros((2, 8, 8, 1), "float32"), verbose=0)["loss"])

    watched = ["--noevaluate", "--monitor_images=40", f"--run_dir={tmp_path / 'again'}"]
    again = run("pretrain.py", f"--flagfile={folder / 'flags.txt'}", *watched)
    assert again.returncode == 0, again.stderr
    # A look changes nothing of the run; 20 rows of ten classes are too few for a linear probe.
    assert (
        "--monitor_images=40 is monitored without a linear probe: 20 training rows" in again.stdout
    )
    columns = (tmp_path / "again" / "log.csv").read_text().splitlines()[0]
    assert "knn_accuracy" in columns and "linear_probe_accuracy" not in columns
    assert "gain from pretraining" not in again.stdout
    repeated = load_file(tmp_path / "again" / "ema" / "model.safetensors")
    for name, value in averages.items():
        np.testing.assert_allclose(repeated[name], value, rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.once
@pytest.mark.parametrize(
    "flags, words",
    [
        (["--data=cifar"], "--data=cifar is no source of images; known are embedded, digits"),
        (
            ["--data=hdf5:x", "--preset=nepa_micro_patch4_28"],
            "known are embedded.*webdataset:FILES",
        ),
        (["--data=folder:/missing", "--preset=nepa_micro_patch4_28"], "no folder /missing"),
        (["--data=folder:/missing"], "needs --preset"),
        (["--data=folder:/missing", "--evaluate"], "add --noevaluate"),
        (["--data=digits", "--preset=nepa_huge"], "no preset 'nepa_huge'"),
        (["--data=digits", "--image_size=9"], "9x9.*2x2.*multiple, such as 8x8 or 10x10"),
        (["--data=digits", "--image_size=8,4,2"], "write a side, such as 448, or height and width"),
        (
            ["--data=digits", "--model=nepa_micro_patch2_8"],
            "or --preset=nepa_micro_patch2_8 for fresh",
        ),
        (["--data=digits", "--batch_size=5000"], "batch of 5000.*1437 images"),
        (["--data=digits", "--steps=5", "--epochs=1"], "give one of them"),
        (
            ["--data=digits", "--warmup_ratio=0.1", "--warmup_epochs=1"],
            "warmup_ratio=0.1.*give one",
        ),
        (
            ["--data=digits", "--steps=9", "--warmup_epochs=1"],
            "11 updates with this data.*run has only 9",
        ),
        (["--data=digits", "--ema_decay=1"], "ema_decay"),
        (["--data=digits", "--dtype=float7"], "float7"),
        (["--data=digits", "--num_labels=5"], "num_labels=5"),
        (["--data=digits", "--blocks=3"], "--blocks=3: this model has blocks 0 to 2"),
        (["--data=digits", "--blocks=auto", "--noevaluate"], "is for --evaluate"),
        (["--data=digits", "--sigreg_weight=5"], "--sigreg_weight is for --objective=lenepa"),
        (["--data=digits", "--objective=lenepa", "--nostop_gradient"], "has no stop-gradient"),
        (["--data=fashion_mnist", "--data_dir=/missing"], "no file /missing"),
        (["digits"], "this does not: digits"),
        (["--steps=0"], "--steps=0 leaves the length to --epochs, which is not given"),
        (["--stpes=5"], "stpes"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_wrong_flags_are_refused(flags, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run_here("pretrain.py", *flags)
    assert result.returncode == 1
    assert re.search(words, result.stderr + result.stdout), result.stderr
    assert not list(tmp_path.rglob("flags.txt")), "a run that cannot start leaves nothing"


SMALL = ["--preset=nepa_micro_patch4_28", "--batch_size=4", "--steps=4"]


@pytest.mark.once
def test_another_objective_on_a_source_of_files(tmp_path):
    """A source that needs one more flag (`data/test_sources.py` opens each kind), with the paper's parts."""
    flags = [f"--data={source_files.WRITERS['tfds'](tmp_path)}", f"--data_dir={tmp_path}", *SMALL]
    flags += ["--noflip", "--gated_mlp", "--qk_norm_scale", "--warmup_epochs=1"]
    lenepa = ["--objective=lenepa", "--sigreg_over=batch", f"--run_dir={tmp_path / 'run'}"]
    result = run("pretrain.py", *flags, *lenepa)
    assert result.returncode == 0, result.stderr
    assert "12 images per epoch, as 28x28x3" in result.stdout
    run_dir = tmp_path / "run"
    assert "squared_error" in (run_dir / "log.csv").read_text().splitlines()[0]
    nepa_keras.NepaPretrainer.from_preset(run_dir / "ema")  # nothing of the projector
    config = json.loads((run_dir / "ema" / "config.json").read_text())
    assert config["use_gated_mlp"] and config["qk_norm_affine"]
    assert not (run_dir / "similarity.png").exists(), "predictions are no embeddings"
    assert '"pretrained":false' in (run_dir / "report.html").read_text()
    assert not (run_dir / "bad_images.txt").exists()
    said = refusal("pretrain.py", *flags, lenepa[-1])
    assert "holds a run with other flags (--objective=lenepa, --sigreg_over=batch)" in said


@pytest.mark.first_on("torch")
def test_bad_images_are_skipped_within_the_budget_and_named_beyond(tmp_path):
    """Each backend is tried, as TensorFlow hides what a generator raises."""
    flags = [f"--data={source_files.folder(tmp_path)}", *SMALL, "--steps=9"]
    bad = tmp_path / "images" / source_files.CLASSES[0] / "00.png"
    bad.write_bytes(b"no image")
    result = run("pretrain.py", *flags, f"--run_dir={tmp_path / 'skip'}")
    assert result.returncode == 0, result.stderr
    assert "1 bad images were replaced" in result.stdout
    assert min(Image.open(tmp_path / "skip" / "similarity.png").size) > 200
    recorded = (tmp_path / "skip" / "bad_images.txt").read_text()
    assert recorded == f"{bad}: no image of a known format\n"
    result = run("pretrain.py", *flags, "--bad_images=fail", f"--run_dir={tmp_path / 'fail'}")
    assert result.returncode == 4 and "Traceback" not in result.stderr, result.stderr
    assert f"{bad}: no image of a known format. Remove or replace it" in result.stderr
