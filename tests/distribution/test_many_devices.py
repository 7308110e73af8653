"""The same batches on many devices, in real processes: losses, norms, weights and averages of one device.

Devices are virtual ones on the CPU, processes meet on localhost. Each case trains 20 steps with clipping,
EMA, RoPE's random draws, hidden patches and a bad batch; see `train_curve.py`.
"""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import cache

import numpy as np
import pytest

import nepa_keras
from nepa_keras.distribution import Processes
from tests.helpers import ROOT
from tests.helpers.tolerances import TOLERANCES

pytestmark = pytest.mark.once

WORKER = ("-m", "tests.helpers.train_curve")
PARTS = ("plain", "accumulate", "segment")
OF_TORCH = (*PARTS, "projected")

# float32 sums in another order: 2e-7 in losses, norms and spreads after 20 steps, 7e-6 in weights, whose
# steps are of the size of the rate however small the gradient is; 2e-5 in moving statistics after two.
CURVE, WEIGHTS, STATISTICS = 2e-6, 3e-5, 2e-4
# Relative: an activation that rounding takes over ReLU's zero moves the gradient by a step. 1.7e-5 between
# one process and two of PyTorch on an AMD EPYC, and just so in one process with ONEDNN_MAX_CPU_ISA=AVX2.
SEGMENT_NORM = TOLERANCES["trajectory_norm"].limit
RUN = 1e-5  # 200 steps of a run at its own rates: 8e-7


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def environment(backend: str, number: int, count: int, ports) -> dict[str, str]:
    """Environment variables that tell process `number` of the others."""
    env = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "OMP_NUM_THREADS": "1",
    }
    if count == 1:
        return env
    if backend == "jax":
        more = {"COORDINATOR_ADDRESS": f"127.0.0.1:{ports[0]}", "NUM_PROCESSES": count}
        more = {f"JAX_{name}": str(value) for name, value in {**more, "PROCESS_ID": number}.items()}
    elif backend == "tensorflow":
        workers = [f"127.0.0.1:{port}" for port in ports]
        task = {"type": "worker", "index": number}
        more = {"TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": task})}
    else:
        more = {"WORLD_SIZE": count, "RANK": number, "LOCAL_RANK": number, "MASTER_PORT": ports[0]}
        more = {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in more.items()}}
    return {**env, **more}


def start(backend: str, count: int, *command, of_last=()) -> list[subprocess.Popen]:
    """Several processes of one run of a Python script; the last may have more arguments."""
    ports = free_ports(count)
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command), *(of_last if number == count - 1 else ())],
            env=environment(backend, number, count, ports),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def finish(processes: list[subprocess.Popen]) -> list[subprocess.CompletedProcess]:
    """Waits for all; none is left behind."""
    try:
        outputs = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        subprocess.CompletedProcess(p.args, p.returncode, *output)
        for p, output in zip(processes, outputs, strict=True)
    ]


def train(folder, backend, count=1, kind="none", mesh="-", devices=1, parts=PARTS) -> dict:
    out = folder / f"{backend}-{count}-{kind}-{mesh}-{devices}.json"
    for done in finish(start(backend, count, *WORKER, out, kind, mesh, devices, *parts)):
        assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return cache(
        lambda backend: train(folder, backend, parts=OF_TORCH if backend == "torch" else PARTS)
    )


def differences(found: dict, expected: dict) -> dict[str, float]:
    """The largest by name."""
    assert found.keys() - {"split"} == expected.keys()
    return {
        name: max(
            np.max(np.abs(np.subtract(a, b)), initial=0.0)
            for a, b in zip(found[name], expected[name], strict=True)
        )
        for name in expected
        if expected[name]
    }


def check_same(found: dict, expected: dict, parts) -> None:
    check_curves(found, expected, parts)
    plain = expected["plain"]
    assert np.ptp(plain["loss"][6:]) > 0.1, "a curve, not a line"
    assert sum(plain["skipped_steps"]) == 1


def check_curves(found: dict, expected: dict, parts) -> None:
    for part in parts:
        for name, difference in differences(found[part], expected[part]).items():
            print(f"{part} {name} {difference:.1e}")
            limits = {"weights": WEIGHTS, "averages": WEIGHTS, "rest": STATISTICS}
            limit = limits.get(name, CURVE)
            if part == "segment" and name == "gradient_norm":
                limit = SEGMENT_NORM * max(expected[part][name])
            assert difference <= limit, f"{part} {name}: {difference:.3g} > {limit:g}"


CASES = {
    "jax, 4 devices": ("jax", 1, "auto", "-", 4, ("plain", "accumulate")),
    "jax, weights over 4 devices": ("jax", 1, "fsdp", "-", 4, ("plain",)),
    "jax, mesh 2x2": ("jax", 1, "fsdp", "2x2", 4, ("plain", "accumulate")),
    "jax, mesh 1x4": ("jax", 1, "fsdp", "1x4", 4, ("plain",)),
    "jax, 2 processes": ("jax", 2, "auto", "-", 1, ("plain",)),
    "jax, weights over 2 processes": ("jax", 2, "fsdp", "-", 1, ("plain",)),
    "jax, mesh 1x2 over 2 processes": ("jax", 2, "fsdp", "1x2", 1, ("plain",)),
    "tensorflow, 2 devices": ("tensorflow", 1, "auto", "-", 2, PARTS),
    "tensorflow, 2 workers": ("tensorflow", 2, "auto", "-", 1, ("plain", "accumulate")),
    "torch, 2 processes": ("torch", 2, "auto", "-", 1, OF_TORCH),
}


# One process with many devices, and many processes; the rest is the second tier.
FIRST = ("jax, mesh 2x2", "torch, 2 processes")


@pytest.mark.parametrize(
    "case",
    [case if case in FIRST else pytest.param(case, marks=pytest.mark.full) for case in CASES],
)
def test_curves_are_those_of_one_device(case, tmp_path, one_device):
    backend, count, kind, _, devices, parts = CASES[case]
    found = train(tmp_path, *CASES[case])
    assert found["processes"] == [0, count, count * devices]
    check_same(found, one_device(backend), parts)
    if kind == "fsdp":
        assert found["plain"]["split"] >= 10, "matrices and what the optimizer keeps of them"


@pytest.mark.full
def test_compiled_blocks_on_two_processes_train_as_eager_ones_on_one(tmp_path, one_device):
    found = train(tmp_path, "torch", 2, "auto", parts=("compiled",))
    check_same({"plain": found["compiled"]}, one_device("torch"), ("plain",))


@pytest.mark.full
@pytest.mark.parametrize(("backend", "devices"), [("jax", 4), ("tensorflow", 2)])
def test_a_projector_and_sigreg_are_of_all_devices(backend, devices, tmp_path):
    expected = train(tmp_path, backend, parts=("projected",))
    found = train(tmp_path, backend, kind="auto", devices=devices, parts=("projected",))
    check_curves(found, expected, ("projected",))


def rows_of(folder) -> list[dict[str, float]]:
    with open(folder / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(x) for name, x in row.items() if x != "NA"} for row in rows]


@pytest.mark.full
def test_a_run_of_two_processes_is_stopped_and_goes_on_as_one(tmp_path):
    """SIGTERM to the process that does not write: both end after the same step, and one goes on."""
    flags = (
        "--data=digits --batch_size=32 --steps=200 --noevaluate --jit_compile=false --monitor_images=40"
    ).split()
    script = ROOT / "experiments" / "pretrain.py"
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    running = start("torch", 2, script, *flags, f"--run_dir={stopped}")
    deadline = time.monotonic() + 120
    while not list(stopped.glob("checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    running[1].send_signal(signal.SIGTERM)
    first, second = finish(running)
    assert (first.returncode, second.returncode) == (75, 75), first.stderr + second.stderr
    (step,) = {
        text.split("saved at step ")[1].split(";")[0] for text in (first.stderr, second.stderr)
    }
    assert 0 < int(step) < 200
    assert "2 devices of 2 processes" in first.stdout
    assert not second.stdout

    for folder in (stopped, whole):
        (done,) = finish(start("torch", 1, script, *flags, f"--run_dir={folder}"))
        assert done.returncode == 0, done.stderr
        assert (f"resuming from step {step} of 200" in done.stdout) == (folder == stopped)
    rows, expected = rows_of(stopped), rows_of(whole)
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        for name in ("loss", "gradient_norm", "target_spread", "learning_rate", "skipped_steps"):
            difference = abs(row[name] - other[name])
            print(f"{row['step']:.0f} {name} {difference:.1e}")
            assert difference <= RUN, (row["step"], name, difference)
    assert (stopped / "ema" / "model.safetensors").exists()


@pytest.mark.full
@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_a_run_that_loses_a_process_ends_with_one_sentence(tmp_path, backend):
    """The run ends after a minute, whatever the engine would have done."""
    flags = "--data=digits --batch_size=32 --steps=1000 --noevaluate --jit_compile=false".split()
    script = ROOT / "experiments" / "pretrain.py"
    log = tmp_path / "log.csv"
    left, lost = start(backend, 2, script, *flags, f"--run_dir={tmp_path}")
    deadline = time.monotonic() + 120
    while not (log.exists() and rows_of(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    lost.kill()
    killed = time.monotonic()
    (done,) = finish([left])
    lost.wait()
    assert done.returncode == 6, done.stderr
    assert 30 < time.monotonic() - killed < 100
    assert done.stderr.splitlines()[-1].startswith("pretrain.py: Process 1 of 0 to 1 has not been")
    assert "Traceback" not in done.stderr
    assert rows_of(tmp_path)


def test_processes_that_were_started_as_different_runs_end_with_one_sentence(tmp_path):
    """Before the first step. Two processes that import Keras and PyTorch on two cores: 15 s."""
    flags = (
        "--data=digits --preset=nepa_micro_patch2_8 --batch_size=32 --steps=2 --noevaluate".split()
    )
    script, folder = ROOT / "experiments" / "pretrain.py", f"--run_dir={tmp_path / 'run'}"
    for done in finish(start("torch", 2, script, *flags, folder, of_last=["--seed=2"])):
        assert done.returncode == 1, done.stderr
        assert done.stderr.splitlines()[-1].startswith(
            "pretrain.py: The processes of the run have different"
        )
        assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("run/checkpoints/step-*"))


REFUSED = {
    "a mesh for data": (("data", "2x2"), "--mesh=2x2 is for --distribute=fsdp"),
    "no mesh": (("fsdp", "2by2"), "--mesh=2by2 must be GROUPSxDEVICES, such as 4x2"),
    "no kind": (("ddp", None), "must be one of auto, none, data, fsdp"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_impossible_distributions_are_refused(case):
    arguments, words = REFUSED[case]
    with pytest.raises(ValueError, match=words):
        nepa_keras.distribute(*arguments)


def test_a_mesh_of_other_devices_is_refused():
    code = "import nepa_keras; nepa_keras.distribute('fsdp', '3x2')"
    (done,) = finish(start("jax", 1, "-c", code))
    assert "needs 6 devices, there are " in done.stderr


def test_a_batch_that_devices_cannot_share_is_refused():
    assert Processes(0, 2, 8).images_of_process(64) == 32
    with pytest.raises(ValueError, match=r"--batch_size=60 .* all 8 devices.* use 56"):
        Processes(0, 2, 8).images_of_process(60)


@pytest.mark.parametrize("backend", ["tensorflow", "torch"])
def test_weights_are_split_on_jax_only(backend):
    code = "import nepa_keras; nepa_keras.distribute('fsdp')"
    (done,) = finish(start(backend, 1, "-c", code))
    assert "--distribute=fsdp is for JAX" in done.stderr


@pytest.mark.full
@pytest.mark.parametrize(("backend", "devices"), [("jax", 4), ("tensorflow", 2)])
def test_batches_that_the_devices_do_not_divide(tmp_path, backend, devices):
    """7, 7, 7 and 1 image, so that devices have unequal parts or none: the numbers of one device."""
    out = tmp_path / "differences.json"
    worker = ("-m", "tests.helpers.uneven_batches", out, devices)
    (done,) = finish(start(backend, 1, *worker))
    assert done.returncode == 0, done.stderr[-3000:]
    for kind, difference in json.loads(out.read_text()).items():
        assert difference <= WEIGHTS, f"{kind}: {difference:.3g}"
