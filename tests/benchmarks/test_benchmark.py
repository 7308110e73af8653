"""benchmark.py and profile_step.py as a person starts them, on a model small enough for a test."""

import json
import re

import pytest

import nepa_keras
from tests.helpers import ROOT
from tests.helpers.scripts import refusal, run

PRESET = "nepa_micro_patch2_8"


@pytest.mark.once
@pytest.mark.full
@pytest.mark.parametrize("inference", [False, True], ids=["step", "inference"])
def test_both_benchmarks_train_the_same_model(inference, tmp_path):
    report = tmp_path / "report.json"
    flags = [f"--preset={PRESET}", "--batch_size=4", "--steps=2", "--repeats=2", f"--json={report}"]
    flags += ["--reference", *(["--inference"] if inference else [])]
    result = run("benchmark.py", *flags)
    assert result.returncode == 0, result.stderr
    assert "speed of nepa_keras against plain PyTorch" in result.stdout
    figures = json.loads(report.read_text())
    backbone = nepa_keras.NepaBackbone.from_preset(PRESET, load_weights=False)
    flops = nepa_keras.performance.forward_flops(backbone) * (1 if inference else 3)
    assert figures["step_flops"] == 4 * flops
    ours, theirs = figures["sides"]
    assert ours["parameters"] == theirs["parameters"] == backbone.count_params()
    assert inference or 0 < ours["fit_overhead"] < 1
    for side in figures["sides"]:
        assert len(side["turns_seconds"]) == 2 and side["step_seconds"]["min"] > 0
        assert side["images_per_second"] == pytest.approx(4 / side["step_seconds"]["median"])


@pytest.mark.once
@pytest.mark.full
def test_another_checkout_is_measured_in_turn():
    """Here the same checkout stands for the other."""
    flags = [f"--preset={PRESET}", "--batch_size=4", "--steps=2", "--repeats=1"]
    result = run("benchmark.py", *flags, f"--against={ROOT}", KERAS_BACKEND="torch")
    assert result.returncode == 0, result.stderr
    assert f"against nepa_keras of {ROOT}, torch: " in result.stdout
    assert "is no checkout" in refusal("benchmark.py", *flags, f"--against={ROOT / 'tests'}")


@pytest.mark.once
@pytest.mark.full
def test_rates_for_each_block_are_measured_against_one():
    result = run(
        "benchmark.py",
        "--suite=groups",
        f"--preset={PRESET}",
        "--batch_size=4",
        "--steps=2",
        "--repeats=2",
    )
    assert result.returncode == 0, result.stderr
    title, one, each, ratio = result.stdout.splitlines()
    assert PRESET in title and "batch 4" in title
    # Decay or not; and that for the embedding, three blocks, fc_norm and the head, where both occur.
    assert one.startswith("2 groups") and each.startswith("11 groups")
    seconds = [float(re.search(r"(\S+) s per step", line)[1]) for line in (one, each)]
    assert 0.2 < float(ratio.split()[1]) / (seconds[1] / seconds[0]) < 5


@pytest.mark.once
@pytest.mark.full
def test_what_saves_memory_is_measured_against_float32():
    small = ["--suite=memory", "--backends=torch", f"--preset={PRESET}", "--batch_size=256"]
    result = run("benchmark.py", *small, "--steps=1", "--repeats=1")
    assert result.returncode == 0, result.stderr
    rows = [line.strip("| ").split(" | ") for line in result.stdout.splitlines()[2:]]
    names = [row[1] for row in rows]
    assert names == ["float32", "bfloat16", "remat", "4 batches", "all three"]
    beyond = {row[1]: int(row[3].removesuffix(" MiB")) for row in rows}
    assert beyond["remat"] < 0.8 * beyond["float32"] and beyond["4 batches"] < beyond["float32"]


@pytest.mark.once
@pytest.mark.full
def test_the_accelerator_suite_is_rehearsed(tmp_path):
    file = tmp_path / "figures.jsonl"
    result = run(
        "benchmark.py", "--suite=accelerator", "--rehearse", "--device=h100", f"--json={file}"
    )
    assert result.returncode == 0, result.stdout
    rows = {row.pop("part"): row for row in map(json.loads, file.read_text().splitlines())}
    works = [" ".join(name.split()[:3]) for name in rows]
    assert "steps plain compiled" in works and "kernels torch compiled" in works
    for name, row in rows.items():
        if name.startswith("exactness"):
            exact = [row[f"{model}, float32"] for model in ("pretrain_gelu", "pretrain_gated")]
            assert all(away["states_largest"] < 2e-5 for away in exact)
        elif name.startswith("steps"):
            assert row["mfu"] > 0 and min(row["step_ms"]) > 0
        else:
            assert 0 < sum(row["ms"].values()) <= 1.001 * row["all_ms"]


@pytest.mark.once
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--only=flops"], "contains 'flops'"),
        (["--batch_size=4"], "takes no --preset or --batch_size"),
        (["--backends=tensorflow"], "No part of the suite"),
    ],
)
def test_a_part_that_does_not_exist_is_refused(flags, words):
    assert words in refusal("benchmark.py", "--suite=accelerator", *flags)


@pytest.mark.once
@pytest.mark.full
def test_loading_and_transforms_are_measured_against_their_alternatives():
    result = run("benchmark.py", "--input", "--steps=1", "--repeats=1", "--threads=1")
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"^(500x375|resized to 256) .* \d\.\d\d \(", result.stdout, re.M)) == 2
    result = run("benchmark.py", "--suite=transforms", "--steps=1", "--repeats=1")
    assert result.returncode == 0, result.stderr
    rows = re.findall(
        r"^(RandAugment|CutMix|mixup) +(ours|Keras|KerasCV) +(\S+)", result.stdout, re.M
    )
    assert len(rows) == 9 and all(float(time) > 0 for _, _, time in rows)


@pytest.mark.full
def test_profile_knows_what_the_kernels_are():
    """Most of the recorded time has a name on each backend, and matrix products are among it."""
    result = run("profile_step.py", f"--preset={PRESET}", "--batch_size=64")
    assert result.returncode == 0, result.stderr
    rows = dict(re.findall(r"^(\S.*?) {2,}[\d.]+ ms +([\d.]+)%$", result.stdout, re.MULTILINE))
    shares = {name: float(share) for name, share in rows.items()}
    assert shares["dense products"] > 0 and sum(shares.values()) == pytest.approx(100, abs=1)
    assert shares.get("other", 0) < 60, shares
