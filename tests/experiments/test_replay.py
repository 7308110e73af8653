"""experiments/pretrain.py --replay, from a run that diverged."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers.scripts import refusal, run, run_here

pytestmark = pytest.mark.once
NOT_FINITE = 3
RUN = ["--data=digits", "--noevaluate", "--batch_size=32", "--steps=60"]
# Decay with a large rate multiplies the weights by some -1e5 in each step.
DIVERGES = ["--base_learning_rate=1000", "--weight_decay=1000", "--warmup_ratio=0"]


@pytest.fixture(scope="module")
def diverged(tmp_path_factory):
    """The folder of a run whose rate is far too large."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    result = run("pretrain.py", *RUN, *DIVERGES, f"--run_dir={folder}")
    assert result.returncode == NOT_FINITE, result.stderr
    (kept,) = (folder / "non_finite").iterdir()
    assert f"pretrain.py --replay={kept}" in result.stdout
    return folder


def content(folder) -> dict:
    return {p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in folder.rglob("*")}


def test_the_step_is_reproduced_without_repeating_a_flag(diverged):
    (kept,) = (diverged / "non_finite").iterdir()
    before = content(diverged)
    result = run("pretrain.py", f"--replay={kept}")
    assert result.returncode == NOT_FINITE, result.stderr
    assert content(diverged) == before
    lines = result.stdout.splitlines()
    assert any(line.startswith("step 0: loss -0.") and line.endswith("ok") for line in lines)
    assert any("32 of 32 images: image " in line for line in lines)
    assert lines[-1] == f"step {int(kept.name[5:])} is reproduced"


def test_a_flag_of_the_command_line_wins_over_the_flag_file(diverged):
    """A small enough rate makes the step like any other."""
    (kept,) = (diverged / "non_finite").iterdir()
    result = run_here("pretrain.py", f"--replay={kept}", "--base_learning_rate=1e-3")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].endswith("is not reproduced")


@pytest.mark.parametrize(
    ("place", "flags", "words"),
    [
        ("missing", [], "report.json is missing"),
        ("checkpoints", [], "report.json is missing"),
        ("non_finite/*", ["--seed=5"], "use the data and the seed of the run"),
        ("non_finite/*", ["--accumulation_steps=2"], "another model"),
    ],
)
def test_folders_that_cannot_be_replayed_are_refused(place, flags, words, diverged):
    folder = next(diverged.glob(place), diverged / place)
    assert words in refusal("pretrain.py", f"--replay={folder}", *flags)


def test_a_run_on_files_is_reproduced(tmp_path):
    """Fine-tuning, whose batches are pixels; in this process, as the test is about the batch."""
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 12, 10), "uint8")
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}.png")
    flags = [f"--data=folder:{tmp_path / 'photos'}", "--preset=nepa_micro_patch2_8", "--channels=1"]
    flags += ["--batch_size=8", "--steps=60", *DIVERGES, f"--run_dir={tmp_path / 'run'}"]
    result = run_here("pretrain.py", *flags)
    assert result.returncode == NOT_FINITE, result.stderr
    (kept,) = (tmp_path / "run" / "non_finite").iterdir()
    result = run_here("pretrain.py", f"--replay={kept}")
    assert result.returncode == NOT_FINITE, result.stderr
    assert result.stdout.splitlines()[-1].endswith("is reproduced")
