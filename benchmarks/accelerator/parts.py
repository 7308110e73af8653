"""One part of `benchmark.py --suite=accelerator`, run in its own process: exactness, steps or kernels.

    python benchmarks/accelerator/parts.py '{"work": "steps", …}'

The script prints its figures as JSON, in one line after the word RESULT.
"""

import collections
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sides import KerasSide, ReferenceSide, prepare

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
WARM_STEPS = 7  # untimed steps: compilation, choice of kernels, filling of caches
TURN_SECONDS = 3.0


def exactness(options):
    """Differences of states and loss from the reference implementation, in float32 and bfloat16.

    TF32, JAX's default for float32 products on GPUs, is switched off.
    """
    import keras
    import numpy as np
    from keras import ops
    from safetensors.numpy import load_file

    import nepa_keras

    figures = {}
    for name in ("pretrain_gelu", "pretrain_gated"):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(GOLDEN / name / "config.json", folder)
            shutil.copy(GOLDEN / name / "weights.safetensors", Path(folder, "model.safetensors"))
            io = load_file(GOLDEN / name / "io.safetensors")
            images = np.ascontiguousarray(np.moveaxis(io["pixel_values"], 1, -1))
            expected = io["last_hidden_state"]
            for policy in ("float32", "mixed_bfloat16"):
                keras.config.set_dtype_policy(policy)
                model = nepa_keras.NepaPretrainer.from_preset(folder)
                states = model.backbone(images, training=False)["sequence_output"]
                away = ops.convert_to_numpy(ops.cast(states, "float32")) - expected
                model.compile(optimizer="sgd")
                loss = model.evaluate(images, verbose=0)["loss"]
                figures[f"{name}, {policy}"] = {
                    "states_largest": float(np.abs(away).max()),
                    "states_relative": float(np.linalg.norm(away) / np.linalg.norm(expected)),
                    "loss": float(abs(loss - io["loss"][0])),
                }
    return figures


def steps(options):
    """Times, peak memory and MFU of training steps, on uint8 batches held in memory."""
    from nepa_keras.performance import predicted_step

    side = make_side(options)
    started = time.perf_counter()
    side.run(1)
    first = time.perf_counter() - started
    side.run(WARM_STEPS - 1)
    started = time.perf_counter()
    side.run(2)
    turn = max(2, int(TURN_SECONDS * 2 / (time.perf_counter() - started)))
    times = []
    for _ in range(1 if options["rehearse"] else 3):
        started = time.perf_counter()
        side.run(turn)
        times.append((time.perf_counter() - started) / turn)
    step, images = statistics.median(times), options["batch_size"]
    figures = {
        "step_ms": [round(1e3 * seconds, 2) for seconds in sorted(times)],
        "first_step_s": round(first, 1),
        "images_per_second": round(images / step, 1),
        "memory_gb": peak_memory(),
        "versions": side.facts["versions"],
    }
    if sheet := data_sheet(options["device"]):
        figures["mfu"] = round(side.facts["step_flops"] / step / sheet.flops_per_second, 6)
        if not options["plain"]:
            predicted, _ = predicted_step(side.model.backbone, images, sheet)
            figures["predicted_ms"] = round(1e3 * predicted, 1)
    return figures


def kernels(options):
    """Milliseconds per step of the ten slowest kernels, and of all kernels together."""
    side = make_side(options)
    side.run(WARM_STEPS)
    spent = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        by_jax = os.environ["KERAS_BACKEND"] == "jax"
        for name, seconds in _xla_kernels(side, Path(folder)) if by_jax else _torch_kernels(side):
            spent[name] += seconds
    figures = {name: round(1e3 * seconds, 3) for name, seconds in spent.most_common(10)}
    return {"ms": figures, "all_ms": round(1e3 * sum(spent.values()), 3)}


def _xla_kernels(side, folder):
    import jax
    from jax.profiler import ProfileData

    with jax.profiler.trace(str(folder)):
        side.run(3)
    (recorded,) = folder.rglob("*.xplane.pb")
    planes = list(ProfileData.from_file(str(recorded)).planes)
    for plane in [p for p in planes if "/device:" in p.name] or planes:  # a CPU has no such plane
        lines = [line for line in plane.lines if "Stream" in line.name] or plane.lines
        for event in (event for line in lines for event in line.events):
            operation = dict(event.stats).get("hlo_op")
            if operation:
                yield f"{operation} ({event.name[:60]})", event.duration_ns / 3e9


def _torch_kernels(side):
    import torch

    with torch.profiler.profile() as held:
        side.run(3)
    device = "device" if torch.cuda.is_available() else "cpu"
    for row in held.key_averages():
        yield row.key[:70], getattr(row, f"self_{device}_time_total") / 3e6


def make_side(options):
    if not options["plain"]:
        return KerasSide(options)
    import torch

    import nepa_keras
    from nepa_keras.performance import training_flops

    backbone = nepa_keras.NepaBackbone.from_preset(
        options["preset"], load_weights=False, **options.get("overrides", {})
    )
    config, flops = backbone.get_config(), training_flops(backbone) * options["batch_size"]
    del backbone
    torch.cuda.empty_cache()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    side = ReferenceSide(options | {"config": config})
    side.facts["step_flops"] = flops
    return side


def peak_memory():
    """Peak device memory so far in GB; None if the device does not report it."""
    if "jax" in sys.modules and os.environ["KERAS_BACKEND"] == "jax":
        statistics_of = sys.modules["jax"].devices()[0].memory_stats() or {}
        peak = statistics_of.get("peak_bytes_in_use")
    else:
        cuda = sys.modules["torch"].cuda
        peak = cuda.max_memory_allocated() if cuda.is_available() else None
    return peak and round(peak / 1e9, 2)


def data_sheet(name):
    """Data sheet of the named device, or of the device in use; None if it is unknown."""
    from nepa_keras import backends
    from nepa_keras.performance import DEVICES, known_device

    return DEVICES[name] if name else known_device(backends.device_name())


def main():
    options = json.loads(sys.argv[1])
    prepare(options)
    if options["work"] == "exactness":
        os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
    figures = {"exactness": exactness, "steps": steps, "kernels": kernels}[options["work"]](options)
    print("RESULT " + json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
