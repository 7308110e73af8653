"""Speed and memory of a pretraining step, or of features, alone or against plain PyTorch.

    KERAS_BACKEND=jax python experiments/benchmark.py --size=tiny --reference
    KERAS_BACKEND=torch python experiments/benchmark.py --size=base --dtype=bfloat16
    KERAS_BACKEND=jax python experiments/benchmark.py --inference --reference
    KERAS_BACKEND=jax python experiments/benchmark.py --suite=accelerator      # bfloat16, base and large

The step is the one users get: `compile` with the recipe's optimizer (clipping, decay groups, EMA),
then `fit`, here over batches held in memory; with --inference it is a batch of `predict` of
`evaluation.FeatureExtractor`. Every side lives in a process of its own and works only
in its turn, as two frameworks at once would fight for the cores; turns alternate, so that slow and
fast minutes of the machine meet both. One time is one turn divided by its steps.
"""

import json
import multiprocessing
import os
import platform
import statistics
import sys
import time

from absl import app, flags
from benchmark_sides import KerasSide, ReferenceSide, serve

SIZES = {"tiny": ("nepa_tiny_patch16_224", 8), "base": ("nepa_base_patch14_224", 2)}
SUITE = (
    ("nepa_base_patch14_224", (64, 128, 256)),
    ("nepa_large_patch14_224", (32, 64, 128)),
)
PAUSE_SECONDS = 0.3  # before each turn: idle threads of the side before may still be spinning

flags.DEFINE_enum("size", "tiny", list(SIZES), "preset and batch size of a standard measurement")
flags.DEFINE_enum("suite", None, ["accelerator"], "steps beside the roofline's prediction")
flags.DEFINE_enum("device", None, ["h100", "tpu_v5e"], "data sheet; default that of the device")
flags.DEFINE_string("preset", None, "architecture to measure in place of that of --size")
flags.DEFINE_integer("batch_size", None, "images in a step; default that of --size", lower_bound=1)
flags.DEFINE_integer("steps", 5, "steps in a turn", lower_bound=1)
flags.DEFINE_integer("repeats", 5, "turns that count, after one that does not", lower_bound=1)
flags.DEFINE_integer("threads", 2, "CPU cores and threads of each side", lower_bound=1)
flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16"], "of the computation, not the weights"
)
flags.DEFINE_enum("jit_compile", "auto", ["auto", "true", "false"], "as in `compile`")
flags.DEFINE_bool("inference", False, "measure features of frozen images, not training steps")
flags.DEFINE_bool("reference", False, "measure plain PyTorch in turn, and the ratio")
flags.DEFINE_string("json", None, "file to write all figures to")
FLAGS = flags.FLAGS


class Side:
    """The parent's end of a side's process, and what was measured there."""

    def __init__(self, side_class, options):
        context = multiprocessing.get_context("spawn")
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=serve, args=(side_class, options, end), daemon=True)
        self.process.start()
        end.close()  # so that a child that dies is noticed
        self.figures, self.seconds = self._answer(), []
        _, self.figures["first_step_seconds"], _ = self.ask("run", 1)

    def _answer(self):
        try:
            return self.pipe.recv()
        except EOFError:
            raise RuntimeError("A side ended early; its own message is above.") from None

    def ask(self, name, argument):
        time.sleep(PAUSE_SECONDS)
        self.pipe.send((name, argument))
        return self._answer()

    def turn(self, steps):
        _, seconds, self.figures["peak_memory_bytes"] = self.ask("run", steps)
        self.seconds.append(seconds / steps)

    def finish(self, step_flops, batch_size, peak):
        """Stops the process and returns the figures."""
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


def describe(figures):
    """One side's figures as lines."""
    step = figures["step_seconds"]
    versions = ", ".join(f"{n} {v}" for n, v in figures["versions"].items())
    overhead = ""
    if "fit_overhead" in figures:
        overhead = f"\n  fit besides steps    {figures['fit_overhead']:.1%}"
    return f"""{figures["name"]} ({versions}; {figures["parameters"]:,} parameters)
  build, first step    {figures["build_seconds"]:.1f} s, {figures["first_step_seconds"]:.1f} s
  step                 {step["median"] * 1e3:.1f} ms ({step["min"] * 1e3:.1f} to {step["max"] * 1e3:.1f})
  images/s             {figures["images_per_second"]:.2f}
  achieved             {figures["flops_per_second"] / 1e9:.1f} GFLOP/s, MFU {figures["mfu"]:.1%}
  peak memory          {figures["peak_memory_bytes"] / 2**20:.0f} MiB{overhead}"""


def accelerator_suite(options):
    """Measures and predicts steps of growing batches; a batch too large for the memory ends its row."""
    cases = [(FLAGS.preset, (FLAGS.batch_size or 64,))] if FLAGS.preset else SUITE
    head = ("batch", "images/s", "measured ms", "MFU", "predicted ms", "MFU")
    for preset, batch_sizes in cases:
        print(f"\n{preset}, {options['dtype']}\n" + "".join(f"{cell:>14}" for cell in head))
        for batch_size in batch_sizes:
            try:
                side = Side(KerasSide, options | {"preset": preset, "batch_size": batch_size})
                for _ in range(FLAGS.repeats + 1):
                    side.turn(FLAGS.steps)
            except RuntimeError as error:
                print(f"{batch_size:>14}  {error}", flush=True)
                break
            prediction, _, _ = side.ask("roofline", FLAGS.device)
            if prediction is None:
                sys.exit(
                    "There is no data sheet for this device: choose one by --device, or add it to "
                    "nepa_keras/evaluation/roofline.py."
                )
            figures = side.finish(side.figures["step_flops"], batch_size, prediction["peak"])
            row = (
                f"{batch_size}",
                f"{figures['images_per_second']:.0f}",
                f"{figures['step_seconds']['median'] * 1e3:.1f}",
                f"{figures['mfu']:.1%}",
                f"{prediction['seconds'] * 1e3:.1f}",
                f"{prediction['mfu']:.1%}",
            )
            print("".join(f"{cell:>14}" for cell in row), flush=True)
        else:
            print(prediction["table"])


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; all settings are flags.")
    preset, batch_size = SIZES[FLAGS.size]
    options = {
        "preset": FLAGS.preset or preset,
        "batch_size": FLAGS.batch_size or batch_size,
        "threads": FLAGS.threads,
        "dtype": FLAGS.dtype,
        "jit_compile": FLAGS.jit_compile,
        "inference": FLAGS.inference,
    }
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        os.environ[name] = str(FLAGS.threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    if FLAGS.suite == "accelerator":
        if FLAGS.reference or FLAGS.inference or FLAGS.json:
            raise app.UsageError("--suite takes no --reference, --inference or --json.")
        every_core = {"threads": os.cpu_count()}
        accelerator_suite(options | {"dtype": "bfloat16", "inference": False} | every_core)
        return
    keras_side = Side(KerasSide, options)
    step_flops = keras_side.figures.pop("step_flops")
    config = keras_side.figures.pop("config")
    sides = [keras_side]
    if FLAGS.reference:
        sides.append(Side(ReferenceSide, options | {"config": config}))

    peaks = dict.fromkeys(["float32", FLAGS.dtype], 0.0)
    for repeat in range(FLAGS.repeats + 1):
        for side in sides if repeat % 2 else reversed(sides):
            side.turn(FLAGS.steps)
        for dtype in peaks:
            flops_per_second, _, _ = keras_side.ask("matmul_flops_per_second", dtype)
            peaks[dtype] = max(peaks[dtype], flops_per_second)
    if not FLAGS.inference:
        keras_side.figures["fit_overhead"], _, _ = keras_side.ask(
            "fit_overhead", FLAGS.steps * FLAGS.repeats
        )
    peak = max(peaks.values())  # a CPU without bfloat16 units is slower there

    report = {
        "options": options | {"steps": FLAGS.steps, "repeats": FLAGS.repeats},
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
    peak_text = ", ".join(f"{p / 1e9:.0f} GFLOP/s {dtype}" for dtype, p in peaks.items())
    print(f"{options['preset']}, batch {options['batch_size']}, {FLAGS.dtype}, ", end="")
    print("features, " if FLAGS.inference else "training steps, ", end="")
    print(f"{FLAGS.threads} threads, {FLAGS.repeats} turns of {FLAGS.steps} steps")
    print(f"{step_flops / 1e9:.1f} GFLOP per step; matmul peak {peak_text}")
    for figures in report["sides"]:
        print(describe(figures))
    if FLAGS.reference:
        ours, theirs = (figures["turns_seconds"] for figures in report["sides"])
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        report["speed_ratio"] = statistics.median(ratios)
        print(
            f"speed of nepa_keras against plain PyTorch: {report['speed_ratio']:.2f} "
            f"(median of turn by turn; {min(ratios):.2f} to {max(ratios):.2f})"
        )
    if FLAGS.json:
        with open(FLAGS.json, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    app.run(main)
