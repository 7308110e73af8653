"""Runs that are stopped by a signal, killed, or started twice, as a scheduler or a person does it."""

import csv
import functools
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import nepa_keras
from nepa_keras.training import RunLock
from tests.helpers import ROOT
from tests.helpers.scripts import refusal, run, run_here, run_python, start
from tests.helpers.short_run import SAVED_EARLY

pytestmark = pytest.mark.once
STEPS = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    backbone = nepa_keras.NepaBackbone.from_preset("nepa_micro_patch2_8", load_weights=False)
    nepa_keras.interop.export_huggingface(nepa_keras.NepaPretrainer(backbone), folder)
    return folder


SCRIPTS = {
    "pretrain.py": (["--data=digits", "--noevaluate"], "ema"),
    "finetune.py": (
        ["--data=digits", "--model={model}", "--batch_size=64", "--augmentation=recipe"],
        "trained",
    ),
    "segment.py": (
        (
            "--data=scenes:digits --model={model} --taps=0,1,1,2 --channels=8 --batch_size=2 "
            "--warmup_steps=1 --evaluate_images=4"
        ).split(),
        "trained",
    ),
}


def command(script: str, model: Path, folder: Path) -> list[str]:
    flags = [flag.format(model=model) for flag in SCRIPTS[script][0]]
    return [script, *flags, f"--steps={STEPS}", f"--run_dir={folder}"]


def wait_for_rows(process, folder: Path, rows: int) -> None:
    deadline, log = time.monotonic() + 300, folder / "log.csv"
    while not log.exists() or len(log.read_text().splitlines()) <= rows:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def rows_of(folder: Path) -> list[dict]:
    """Rows of the log without the columns that depend on the clock."""
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {k: v for k, v in row.items() if k not in ("images_per_second", "data_wait", "mfu")}
        for row in rows
    ]


@pytest.fixture(scope="module")
def straight(model, tmp_path_factory):
    """The folder of a script's run without a break."""

    @functools.cache
    def folder_of(script: str) -> Path:
        folder = tmp_path_factory.mktemp("straight")
        result = run(*command(script, model, folder))
        assert result.returncode == 0, result.stderr
        return folder

    return folder_of


def stop(process, folder: Path, rows: int, number: int) -> str:
    """Send a signal after a number of log rows, and return the output up to the end."""
    wait_for_rows(process, folder, rows)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == (SAVED_EARLY if number == signal.SIGTERM else -number), errors
    return errors


@pytest.mark.full
@pytest.mark.parametrize("script", ["pretrain.py", "finetune.py", "segment.py"])
def test_stopped_and_started_again_it_is_the_run_without_a_break(script, model, straight, tmp_path):
    """Stopped by SIGTERM, and pretraining also by kill -9: weights and log end bit-identical."""
    errors = stop(start(*command(script, model, tmp_path)), tmp_path, 3, signal.SIGTERM)
    assert "the same command resumes" in errors
    if script == "pretrain.py":
        stop(start(*command(script, model, tmp_path)), tmp_path, 9, signal.SIGKILL)
    last = run(*command(script, model, tmp_path))
    assert last.returncode == 0, last.stderr
    assert "resuming from step" in last.stdout
    assert rows_of(tmp_path) == rows_of(straight(script))
    part = Path(SCRIPTS[script][1], "model.safetensors")
    expected, found = (load_file(folder / part) for folder in (straight(script), tmp_path))
    assert sorted(expected) == sorted(found)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_folder_in_use_is_refused_and_that_of_a_killed_run_is_kept(tmp_path):
    """The lock that a kill leaves behind stops nobody; other flags do not overwrite what is there."""
    flags = ["--data=digits", "--noevaluate", f"--run_dir={tmp_path}"]
    process = start("pretrain.py", *flags, "--steps=4000")
    wait_for_rows(process, tmp_path, 1)
    said = refusal("pretrain.py", *flags, "--steps=4000")
    assert f"in use by process {process.pid}" in said
    process.send_signal(signal.SIGKILL)
    process.communicate()
    log = (tmp_path / "log.csv").read_text()
    assert log.startswith("epoch,data_wait,gradient_norm")
    assert (tmp_path / "lock").read_text() == str(process.pid)
    RunLock(tmp_path).release()
    assert "holds a run with other flags" in refusal("pretrain.py", *flags, "--steps=6")
    assert (tmp_path / "log.csv").read_text() == log


def test_the_newest_checkpoint_is_damaged_and_the_one_before_is_used(model, straight, tmp_path):
    folder = shutil.copytree(straight("pretrain.py"), tmp_path / "run")
    (folder / "report.html").unlink()  # what a finished run has
    newest = max((folder / "checkpoints").iterdir())
    content = bytearray((newest / "state.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "state.safetensors").write_bytes(content)
    again = run(*command("pretrain.py", model, folder))
    assert again.returncode == 0, again.stderr
    assert f"{newest} is damaged" in again.stdout and "resuming from step 54 of 60" in again.stdout
    part = Path("ema", "model.safetensors")
    assert (folder / part).read_bytes() == (straight("pretrain.py") / part).read_bytes()


def test_a_disk_that_is_full_ends_the_run_with_a_status_of_its_own(model, tmp_path):
    """A limit on the size of files stands for the disk: the checkpoint does not fit."""
    limited = f"ulimit -f 200; trap '' XFSZ; exec {sys.executable} experiments/pretrain.py"
    flags = " ".join(command("pretrain.py", model, tmp_path / "run")[1:])
    result = subprocess.run(
        ["bash", "-c", f"{limited} {flags}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 5, result.stderr
    assert "could not be written" in result.stderr and "Traceback" not in result.stderr
    assert "the same command resumes" in result.stderr


def test_a_folder_that_cannot_be_written_to_is_named_before_anything_is_trained(model):
    """Nobody can make a folder in the file system of the kernel's objects, not even root."""
    result = run_here(*command("pretrain.py", model, Path("/sys/run")))
    assert result.returncode == 5 and "--run_dir=/sys/run cannot be created" in result.stderr


def test_a_run_goes_on_with_another_backend(tmp_path):
    """A model that draws no random numbers ends like the uninterrupted run, up to rounding."""

    def train(backend: str, *arguments) -> int:
        return run_python(
            "-m", "tests.helpers.short_run", *arguments, KERAS_BACKEND=backend
        ).returncode

    assert train("torch", tmp_path / "stopped", "stops") == SAVED_EARLY
    assert train("torch", tmp_path / "straight") == 0
    for backend in ("jax", "tensorflow"):
        folder = shutil.copytree(tmp_path / "stopped", tmp_path / backend)
        assert train(backend, folder) == 0
        found, expected = (
            np.array([float(row["loss"]) for row in rows_of(of)])
            for of in (folder, tmp_path / "straight")
        )
        assert len(found) == 20
        # A step differs by 1e-7 of float32, and 13 of them at this rate by some ten times that.
        np.testing.assert_allclose(found, expected, rtol=1e-5)
