"""Measurement of `benchmark.py`: implementations (sides) in separate processes that work in turn."""

import multiprocessing
import os
import platform
import signal
import statistics
import sys
import time

from sides import KerasSide, ReferenceSide, serve
from time_left import counter

PAUSE_SECONDS = 0.3  # pause before each turn, as threads of the previous side may still be spinning


class Side:
    """Handle of a side's process in the parent, with its measurements."""

    def __init__(self, side_class, options):
        context = multiprocessing.get_context("spawn")
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=serve, args=(side_class, options, end), daemon=True)
        # Only the parent handles Ctrl-C; when it ends, its sides end. A child inherits ignored signals.
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.process.start()
        signal.signal(signal.SIGINT, interrupt)
        end.close()  # so that `recv` fails if the child dies
        self.figures, self.seconds = self._answer(), []
        _, self.figures["first_step_seconds"], _ = self.ask("run", 1)

    def _answer(self):
        try:
            return self.pipe.recv()
        except EOFError:
            raise RuntimeError(
                "A process of the benchmark failed; its own message is above."
            ) from None

    def ask(self, name, argument):
        time.sleep(PAUSE_SECONDS)
        self.pipe.send((name, argument))
        return self._answer()

    def turn(self, steps):
        _, seconds, self.figures["peak_memory_bytes"] = self.ask("run", steps)
        self.seconds.append(seconds / steps)

    def finish(self, step_flops, batch_size, peak):
        """Stop the process and return the figures."""
        self.pipe.send(None)
        self.process.join()
        turns = self.seconds[1:]  # the first warms up
        step = statistics.median(turns)
        return self.figures | {
            "turns_seconds": turns,
            "step_seconds": {"median": step, "min": min(turns), "max": max(turns)},
            "images_per_second": batch_size / step,
            "flops_per_second": step_flops / step,
            "mfu": step_flops / step / peak,
        }


def measure(options, steps, repeats, reference):
    """Time turns of the library, alternating with turns of a reference.

    Args:
        options: options of the sides, see `sides.serve`; "against", if given, is another checkout to use as
            the reference in place of plain PyTorch.
        steps: number of steps in a turn.
        repeats: number of measured turns, after one that warms up.
        reference: whether to measure a reference too.

    Returns:
        The report: "options", "machine", "step_flops", "matmul_flops_per_second" by dtype, "sides"
        (figures of each) and, with a reference, "speed_ratio" (median, min, max).

    Raises:
        RuntimeError: a process failed; it has printed why.
    """
    keras_side = Side(KerasSide, options)
    step_flops = keras_side.figures.pop("step_flops")
    config = keras_side.figures.pop("config")
    sides = [keras_side]
    if reference and options.get("against"):
        sides.append(Side(KerasSide, options | {"root": options["against"]}))
        del sides[1].figures["step_flops"], sides[1].figures["config"]
    elif reference:
        sides.append(Side(ReferenceSide, options | {"config": config}))

    peaks = dict.fromkeys(["float32", options["dtype"]], 0.0)
    count = counter(repeats + 1, "turn", sys.stderr)
    for repeat in range(repeats + 1):
        for side in sides if repeat % 2 else reversed(sides):
            side.turn(steps)
        for dtype in peaks:
            flops_per_second, _, _ = keras_side.ask("matmul_flops_per_second", dtype)
            peaks[dtype] = max(peaks[dtype], flops_per_second)
        count()
    if not options["inference"]:
        (overhead, ends), _, _ = keras_side.ask("fit_overhead", steps * repeats)
        keras_side.figures |= {"fit_overhead": overhead, "fit_ends_seconds": ends}
    peak = max(peaks.values())  # a CPU without bfloat16 units is slower in bfloat16

    report = {
        "options": options | {"steps": steps, "repeats": repeats},
        "machine": {
            "platform": platform.platform(),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
        },
        "step_flops": step_flops,
        "matmul_flops_per_second": peaks,
        "sides": [s.finish(step_flops, options["batch_size"], peak) for s in sides],
    }
    if reference:
        ours, theirs = (figures["turns_seconds"] for figures in report["sides"])
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        report["speed_ratio"] = {
            "median": statistics.median(ratios),
            "min": min(ratios),
            "max": max(ratios),
        }
    return report


def describe(report):
    """Report of `measure` as text."""
    options = report["options"]
    work = "features" if options["inference"] else "training steps"
    peaks = report["matmul_flops_per_second"].items()
    lines = [
        f"{options['preset']}, batch {options['batch_size']}, {options['dtype']}, {work}, "
        f"{options['threads']} threads, {options['repeats']} turns of {options['steps']} steps",
        f"{report['step_flops'] / 1e9:.1f} GFLOP per step; matmul peak "
        + ", ".join(f"{p / 1e9:.0f} GFLOP/s {dtype}" for dtype, p in peaks),
        *(_describe_side(figures) for figures in report["sides"]),
    ]
    if "speed_ratio" in report:
        ratio = report["speed_ratio"]
        lines.append(
            f"speed of nepa_keras against {report['sides'][1]['name']}: {ratio['median']:.2f} "
            f"(median over turns; {ratio['min']:.2f} to {ratio['max']:.2f})"
        )
    return "\n".join(lines)


def _describe_side(figures):
    step = figures["step_seconds"]
    versions = ", ".join(f"{n} {v}" for n, v in figures["versions"].items())
    overhead = ""
    if "fit_overhead" in figures:
        overhead = f"\n  fit between steps    {figures['fit_overhead']:.1%}"
        overhead += f"\n  fit before and after {figures['fit_ends_seconds']:.2f} s"
    return f"""{figures["name"]} ({versions}; {figures["parameters"]:,} parameters)
  build, first step    {figures["build_seconds"]:.1f} s, {figures["first_step_seconds"]:.1f} s
  step                 {step["median"] * 1e3:.1f} ms ({step["min"] * 1e3:.1f} to {step["max"] * 1e3:.1f})
  images/s             {figures["images_per_second"]:.2f}
  achieved             {figures["flops_per_second"] / 1e9:.1f} GFLOP/s, MFU {figures["mfu"]:.1%}
  peak memory          {figures["peak_memory_bytes"] / 2**20:.0f} MiB{overhead}"""
