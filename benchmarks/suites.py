"""Tables of many measurements for `benchmark.py --suite=cpu` and `--suite=sweep`.

Each suite prints a row when it is measured, continues after a row that fails, and returns True if a row
failed.
"""

import importlib.util
import sys

from measure import Side, measure
from sides import KerasSide
from time_left import counter, say_result

SIZES = {"tiny": ("nepa_tiny_patch16_224", 8), "base": ("nepa_base_patch14_224", 2)}
SWEPT_PRESET = SIZES["tiny"][0]
# (axis, images per step, arguments of the backbone); the first row of an axis is the unit of its last column.
SWEEP = (
    *(("batch", n, {}) for n in (2, 4, 8, 16)),
    *(("depth", 4, {"num_layers": n}) for n in (6, 12, 24)),
    *(("tokens", 4, {"image_shape": (n, n, 3)}) for n in (112, 224, 448)),
)


def installed_backends():
    return [n for n in ("jax", "torch", "tensorflow") if importlib.util.find_spec(n)]


def cpu_suite(options, steps, repeats, backends):
    """Compare every size, task and backend with plain PyTorch; print a Markdown table."""
    cases = [
        (size, dtype, inference)
        for dtype in ("float32", "bfloat16")
        for inference in (False, True)
        for size in SIZES
        if dtype == "float32" or (size == "tiny" and not inference)
    ]
    head = "size | work | backend | step | images/s | MFU | reference's step | ratio | first step "
    head += "| fit between steps (its ends) | peak memory (reference)"
    print(f"| {head} |\n|{'---|' * (head.count('|') + 1)}", flush=True)
    failed, count = False, counter(len(cases) * len(backends), "row", sys.stderr)
    for size, dtype, inference in cases:
        preset, batch_size = SIZES[size]
        for backend in backends:
            case = options | {
                "preset": preset,
                "batch_size": batch_size,
                "dtype": dtype,
                "inference": inference,
                "backend": backend,
            }
            work = f"{'features' if inference else 'training'}, {dtype}"
            try:
                cells = _ratio_cells(measure(case, steps, repeats, reference=True))
            except RuntimeError as error:
                cells, failed = [str(error)], True
            say_result(f"| {' | '.join([size, work, backend, *cells])} |")
            count()
    return failed


def _ratio_cells(report):
    (ours, theirs), ratio = report["sides"], report["speed_ratio"]
    overhead = ""
    if "fit_overhead" in ours:
        overhead = f"{ours['fit_overhead']:.1%} ({ours['fit_ends_seconds']:.1f} s)"
    memory, its_memory = (s["peak_memory_bytes"] / 2**20 for s in (ours, theirs))
    return [
        f"{ours['step_seconds']['median'] * 1e3:.0f} ms",
        f"{ours['images_per_second']:.2f}",
        f"{ours['mfu']:.0%}",
        f"{theirs['step_seconds']['median'] * 1e3:.0f} ms",
        f"{ratio['median']:.2f} ({ratio['min']:.2f}–{ratio['max']:.2f})",
        f"{ours['first_step_seconds']:.1f} s",
        overhead,
        f"{memory:.0f} MiB ({its_memory:.0f})",
    ]


def sweep_suite(options, steps, repeats, backends):
    """Measure the cost of a training step by batch size, depth and number of tokens; print tables.

    The last column is the time per FLOP relative to the first row of the axis. FLOPs include the quadratic
    part of attention, so that values above 1 (beyond noise) show a cost that grows faster than necessary.
    """
    failed, count = False, counter(len(SWEEP) * len(backends), "row", sys.stderr)
    for backend in backends:
        print(f"\n{SWEPT_PRESET}, {options['dtype']}, {backend}")
        head = ("axis", "images", "layers", "tokens", "GFLOP", "ms", "GFLOP/s", "time per FLOP")
        print("".join(f"{cell:>14}" for cell in head), flush=True)
        unit = {}
        for axis, batch_size, overrides in SWEEP:
            case = options | {
                "preset": SWEPT_PRESET,
                "batch_size": batch_size,
                "overrides": overrides,
                "backend": backend,
                "inference": False,
            }
            try:
                side = Side(KerasSide, case)
                for _ in range(repeats + 1):
                    side.turn(steps)
            except RuntimeError as error:
                say_result(f"{axis:>14}{batch_size:>14}  {overrides}: {error}")
                failed = True
                count()
                continue
            flops, config = side.figures["step_flops"], side.figures["config"]
            seconds = side.finish(flops, batch_size, peak=1.0)["step_seconds"]["median"]
            per_flop = seconds / flops
            row = (
                axis,
                str(batch_size),
                str(config["num_layers"]),
                str(
                    config["image_shape"][0] * config["image_shape"][1] // config["patch_size"] ** 2
                ),
                f"{flops / 1e9:.1f}",
                f"{seconds * 1e3:.1f}",
                f"{flops / seconds / 1e9:.1f}",
                f"{per_flop / unit.setdefault(axis, per_flop):.2f}",
            )
            say_result("".join(f"{cell:>14}" for cell in row))
            count()
    return failed
