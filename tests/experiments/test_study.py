"""study.py as a person starts it, stopped in the middle and started again."""

import json

import pytest

from tests.helpers.scripts import refusal, run

pytestmark = pytest.mark.once

SMALL = """--data=digits --parts=labels --pretrain_steps=10 --ablation_steps=10 --ablation_seeds=1
    --finetune_steps=2 --label_counts=20 --learning_rates=2e-3 --layer_decays=1 --seeds=2 --tuning_seeds=1
    --ablation_subsets=1 --ablation_labels=20""".split()


def study(folder, *flags) -> list[dict]:
    """The results in the folder, after a run."""
    result = run("study.py", f"--run_dir={folder}", *SMALL, *flags)
    assert result.returncode == 0, result.stderr
    return [json.loads(row) for row in (folder / "results.jsonl").read_text().splitlines()]


def by_name(rows) -> dict:
    return {json.dumps(row["about"]): row["result"] for row in rows}


@pytest.mark.full
def test_a_study_goes_on_where_it_was_stopped(tmp_path):
    """Cut in the middle, and between with the weights of another pretraining in its folder."""
    whole = study(tmp_path / "whole")
    # Pretraining; one setting and two seeds for either start.
    assert len(whole) == 1 + 2 * (1 + 2)
    assert (tmp_path / "whole" / "labels.png").exists()
    assert "| 20 |" in (tmp_path / "whole" / "labels.md").read_text()
    assert (
        '<th scope="row" role="rowheader">20</th>'
        in (tmp_path / "whole" / "report.html").read_text()
    )

    cut = tmp_path / "cut"
    study(cut, "--seeds=1")
    study(cut, "--seeds=1", "--base_learning_rate=0.1")
    rows = (cut / "results.jsonl").read_text().splitlines()
    (cut / "results.jsonl").write_text("\n".join([rows[0], *rows[2:]]) + '\n{"about": ')
    again = study(cut, "--parts=labels,ablations", "--ablations=no RoPE")
    assert [row["about"] for row in again][: len(rows) - 1] == [
        json.loads(row)["about"] for row in [rows[0], *rows[2:]]
    ]
    found = by_name(again)
    # On one machine the same runs give the same numbers.
    assert {name: found[name] for name in by_name(whole)} == by_name(whole)
    assert "| no RoPE |" in (cut / "ablations.md").read_text()


WRONG = {
    "--ablations=NEPA,NEPA must be some of": ["--ablations=NEPA,NEPA"],
    "--learning_rates=nan must be numbers, each a number from 0 to 1000": ["--learning_rates=nan"],
    "--pretrain_steps=105 must be a multiple of 10": ["--pretrain_steps=105"],
    "has 114 images where num_labels=1200": ["--label_counts=1200"],
    "A batch of 20000 cannot be made": ["--batch_size=20000"],
    "num_labels=5 must be at least the 10 classes": ["--label_counts=5"],
    "--preset=vit is no known architecture; known are": ["--preset=vit"],
    "--data=digits has its own test images": ["--test_data=folder:photos"],
    "--image_size is for images of a source": ["--image_size=56"],
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_flags_are_refused(words, tmp_path):
    flags = [f"--run_dir={tmp_path / 'run'}", "--data=digits", *WRONG[words]]
    assert words in refusal("study.py", *flags)
    assert not (tmp_path / "run").exists()
