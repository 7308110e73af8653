"""probe.py as a person starts it."""

import json
from pathlib import Path

import pytest

from tests.helpers import tiny
from tests.helpers.scripts import refusal, run, run_here

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny.exported("nepa_micro_patch2_8", tmp_path_factory.mktemp("model"))


def test_every_probe_of_every_feature_in_one_table(model, tmp_path):
    figures = tmp_path / "new" / "figures.json"
    flags = [f"--model={model}", "--data=digits", "--blocks=0,norm", "--k=1,20"]
    trained = ["--probes=knn,linear,sgd,attentive", "--pools=mean", f"--json={figures}"]
    result = run("probe.py", *flags, *trained)
    assert result.returncode == 0, result.stderr
    rows = json.loads(figures.read_text())
    assert len(rows) == 2 + 2 + 2  # two blocks with either mask, and all patches with either
    assert set(rows["bidirectional, norm, mean"]) == {"1-NN", "20-NN", "linear", "sgd"}
    assert set(rows["causal, norm, all patches"]) == {"attentive"}
    for name, found in rows.items():
        assert name in result.stdout
        assert all(0 <= value <= 1 for value in found.values())
    found = rows["bidirectional, norm, mean"]  # random weights keep much of scans of 8x8
    assert found["linear"] > 0.4 and found["sgd"] > 0.4, found


def test_every_pool_that_sees_the_image_has_a_row(model, tmp_path):
    """Two blocks with three pools, of which CLS only sees images without the mask."""
    figures = tmp_path / "figures.json"
    flags = ["--probes=knn", "--blocks=0,norm", "--k=1,20", f"--json={figures}"]
    result = run_here("probe.py", f"--model={model}", "--data=digits", *flags)
    assert result.returncode == 0, result.stderr
    rows = json.loads(figures.read_text())
    assert len(rows) == 6 + 4
    assert "causal, norm, cls" not in rows and "bidirectional, block 0, cls" in rows


def test_few_labels_a_chosen_block_and_wrong_flags(model, tmp_path):
    flags = [f"--model={model}", "--data=digits"]
    small = ["--probes=knn", "--blocks=auto", "--pools=mean", "--attention=causal", "--k=1"]
    few = ["--labels_per_class=2", "--seeds=1", "--steps=2", f"--json={tmp_path / 'figures.json'}"]
    result = run_here("probe.py", *flags, *small, *few)
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    choice = figures["chosen blocks"]["causal, mean"]
    assert set(choice["accuracies"]) == {"block 0", "block 1", "block 2", "norm"}
    assert choice["accuracies"][choice["block"]] == max(choice["accuracies"].values())
    assert (choice["learned"], choice["held_out"], choice["probe"]) == (1149, 288, "knn")
    assert f"causal, mean: {choice['block']}, chosen by k-NN of 1,149" in result.stdout
    assert set(figures[f"causal, {choice['block']}, mean"]) == {"1-NN"}
    assert sum(name.endswith(", mean") for name in figures) == 1
    assert (
        "fine-tuning on 2 labels per class, 1 seeds" in result.stdout
        and "from scratch" in result.stdout
    )
    cases = {
        "no probe 'svm'": ["--probes=svm"],
        "--labels_per_class=0 must be whole numbers, each above 0": ["--labels_per_class=0"],
        "--k=many must be whole numbers": ["--k=many"],
        "--blocks=7: this model has blocks 0 to 2": ["--blocks=7"],
        "--blocks=auto,1 must be numbers from 0, norm or auto": ["--blocks=auto,1"],
        "has no splits; give --test_data": ["--data=folder:/missing"],
    }
    for words, wrong in cases.items():
        said = refusal("probe.py", *flags, *wrong)
        assert words in said, said
