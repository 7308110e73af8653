"""probe.py as a person starts it."""

import json
from pathlib import Path

import pytest

from tests.helpers import tiny
from tests.helpers.scripts import refusal, run

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny.exported("nepa_micro_patch2_8", tmp_path_factory.mktemp("model"))


def test_every_probe_of_every_feature_in_one_table(model, tmp_path):
    figures = tmp_path / "new" / "figures.json"
    flags = [f"--model={model}", "--data=digits", f"--json={figures}"]
    result = run(
        "probe.py", *flags, "--probes=knn,linear,sgd,attentive", "--blocks=0,norm", "--k=1,20"
    )
    assert result.returncode == 0, result.stderr
    rows = json.loads(figures.read_text())
    # Two blocks with three pools, of which CLS only sees images without the mask; and all patches.
    assert len(rows) == 6 + 4 + 2
    assert set(rows["bidirectional, norm, mean"]) == {"1-NN", "20-NN", "linear", "sgd"}
    assert set(rows["causal, norm, all patches"]) == {"attentive"}
    assert "causal, norm, cls" not in rows and "bidirectional, block 0, cls" in rows
    for name, found in rows.items():
        assert name in result.stdout
        assert all(0 <= value <= 1 for value in found.values())
    for pool in ("mean", "last"):  # random weights keep much of scans of 8x8
        found = rows[f"bidirectional, norm, {pool}"]
        assert found["linear"] > 0.4 and found["sgd"] > 0.4, found


def test_few_labels_and_wrong_flags(model):
    flags = [f"--model={model}", "--data=digits"]
    small = ["--probes=knn", "--blocks=norm", "--pools=mean", "--attention=causal"]
    result = run("probe.py", *flags, *small, "--labels_per_class=2", "--seeds=1", "--steps=2")
    assert result.returncode == 0, result.stderr
    assert (
        "fine-tuning on 2 labels a class, 1 seeds" in result.stdout
        and "from scratch" in result.stdout
    )
    cases = {
        "no probe 'svm'": ["--probes=svm"],
        "--labels_per_class=0 must be whole numbers, each above 0": ["--labels_per_class=0"],
        "--k=many must be whole numbers": ["--k=many"],
        "--blocks: this model has those from 0 to 2": ["--blocks=7"],
        "has no splits; name --test_data": ["--data=folder:/missing"],
    }
    for words, wrong in cases.items():
        said = refusal("probe.py", *flags, *wrong)
        assert words in said, said
