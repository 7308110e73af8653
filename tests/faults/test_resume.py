"""Runs that are stopped by a signal, killed, or started twice, as a scheduler or a person does it."""

import csv
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from scripts import run, start

import nepa_keras

pytestmark = pytest.mark.once
STEPS = 60
SAVED_EARLY = 75


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
        ["--data=scenes:digits", "--model={model}", "--taps=0,1,1,2", "--channels=8"]
        + ["--batch_size=2", "--warmup_steps=1", "--evaluate_images=4"],
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
    """Of the log, without what is of the clock."""
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {k: v for k, v in row.items() if k not in ("images_per_second", "data_wait")}
        for row in rows
    ]


@pytest.mark.parametrize("script", SCRIPTS)
def test_stopped_killed_and_started_again_it_is_the_run_without_a_break(script, model, tmp_path):
    """By SIGTERM, then by kill -9: at the end weights and log are bit for bit the same."""
    straight = run(*command(script, model, tmp_path / "straight"))
    assert straight.returncode == 0, straight.stderr
    again = tmp_path / "again"
    for number, (rows, status) in enumerate([(3, SAVED_EARLY), (9, -signal.SIGKILL)]):
        process = start(*command(script, model, again))
        wait_for_rows(process, again, rows)
        process.send_signal(signal.SIGKILL if number else signal.SIGTERM)
        _, errors = process.communicate()
        assert process.returncode == status, errors
        assert number or "the same command goes on" in errors
    last = run(*command(script, model, again))
    assert last.returncode == 0, last.stderr
    assert "goes on from step" in last.stdout
    assert rows_of(again) == rows_of(tmp_path / "straight")
    part = Path(SCRIPTS[script][1], "model.safetensors")
    weights = [load_file(folder / part) for folder in (tmp_path / "straight", again)]
    assert sorted(weights[0]) == sorted(weights[1])
    for name, value in weights[0].items():
        np.testing.assert_array_equal(weights[1][name], value, err_msg=name)


def test_a_second_run_in_one_folder_is_refused_and_a_lock_left_behind_is_not_minded(
    model, tmp_path
):
    flags = ["--data=digits", "--noevaluate", "--steps=100000", f"--run_dir={tmp_path}"]
    process = start("pretrain.py", *flags)
    wait_for_rows(process, tmp_path, 0)
    second = run("pretrain.py", *flags)
    assert second.returncode == 1
    assert f"in use by process {process.pid}" in second.stderr
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "lock").exists()
    third = start("pretrain.py", *flags)
    third_began = time.monotonic()
    while f"{third.pid}" != (tmp_path / "lock").read_text():
        assert third.poll() is None and time.monotonic() < third_began + 300
        time.sleep(0.2)
    third.send_signal(signal.SIGKILL)
    third.communicate()


def test_the_newest_checkpoint_is_damaged_and_the_one_before_is_used(model, tmp_path):
    first = run(*command("pretrain.py", model, tmp_path / "run"))
    assert first.returncode == 0, first.stderr
    before = (tmp_path / "run" / "ema" / "model.safetensors").read_bytes()
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    content = bytearray((newest / "state.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "state.safetensors").write_bytes(content)
    again = run(*command("pretrain.py", model, tmp_path / "run"))
    assert again.returncode == 0, again.stderr
    assert f"{newest} is damaged" in again.stdout and "goes on from step 54 of 60" in again.stdout
    assert (tmp_path / "run" / "ema" / "model.safetensors").read_bytes() == before


def test_a_disk_that_is_full_ends_the_run_with_a_status_of_its_own(model, tmp_path):
    """A limit on the size of files stands for the disk: the checkpoint does not fit."""
    script = f"ulimit -f 200; trap '' XFSZ; exec {os.sys.executable} experiments/pretrain.py"
    import subprocess

    flags = " ".join(command("pretrain.py", model, tmp_path / "run")[1:])
    result = subprocess.run(
        ["bash", "-c", f"{script} {flags}"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 5, result.stderr
    assert "could not be written" in result.stderr and "Traceback" not in result.stderr
