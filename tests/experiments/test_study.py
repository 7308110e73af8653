"""study.py as a person starts it, stopped in the middle and started again."""

import json

import pytest
from scripts import run

pytestmark = pytest.mark.once

SMALL = """--data=digits --pretrain_steps=10 --ablation_steps=10 --ablation_seeds=1 --finetune_steps=3
    --label_counts=10,20 --learning_rates=1e-3,2e-3 --layer_decays=1 --seeds=2 --ablation_subsets=1
    --ablation_labels=20""".split()


def test_it_goes_on_where_it_was_stopped(tmp_path):
    flags = [f"--run_dir={tmp_path}", *SMALL]
    result = run("study.py", *flags, "--parts=labels")
    assert result.returncode == 0, result.stderr
    rows = (tmp_path / "results.jsonl").read_text().splitlines()
    # Pretraining; two numbers of labels, each two settings and two seeds for either start.
    assert len(rows) == 1 + 2 * 2 * (2 + 2)
    assert (tmp_path / "labels.png").exists()
    (tmp_path / "results.jsonl").write_text("\n".join(rows[:10]) + '\n{"about": ')
    again = run("study.py", *flags, "--ablations=NEPA,no RoPE")
    assert again.returncode == 0, again.stderr
    made = [line for line in again.stdout.splitlines() if " -> " in line]
    assert len(made) == len(rows) - 10 + 2
    kept = [json.loads(row) for row in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [json.loads(row)["about"] for row in rows] == [row["about"] for row in kept[:-2]]
    # On one machine the same runs give the same numbers.
    assert [json.loads(row)["result"] for row in rows[10:]] == [
        row["result"] for row in kept[10:-2]
    ]
    table = (tmp_path / "study.md").read_text()
    assert "| 20 |" in table and "| no RoPE |" in table


WRONG = {
    "--ablations has no 'no luck'": ["--ablations=no luck"],
    "--parts has no 'all'": ["--parts=all"],
    "--learning_rates=fast must be numbers above 0": ["--learning_rates=fast"],
    "num_labels=5 must be at least the 10 classes": ["--label_counts=5"],
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_flag_gets_one_sentence(words, tmp_path):
    result = run("study.py", f"--run_dir={tmp_path / 'run'}", "--data=digits", *WRONG[words])
    assert result.returncode != 0 and words in result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "run").exists()
