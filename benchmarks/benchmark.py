"""Speed and memory of a pretraining step, or of features, alone or against plain PyTorch.

    KERAS_BACKEND=jax python benchmarks/benchmark.py --size=tiny --reference
    KERAS_BACKEND=torch python benchmarks/benchmark.py --size=base --dtype=bfloat16
    KERAS_BACKEND=jax python benchmarks/benchmark.py --inference --reference
    python benchmarks/benchmark.py --suite=cpu          # all backends, the table of BUILD.md
    python benchmarks/benchmark.py --suite=cpu --against=/path/to/another/checkout
    python benchmarks/benchmark.py --suite=sweep        # cost over batch, depth and tokens
    python benchmarks/benchmark.py --suite=accelerator --json=FILE      # for a GPU; first with --rehearse
    KERAS_BACKEND=jax python benchmarks/benchmark.py --input      # images from JPEG files
    KERAS_BACKEND=jax python benchmarks/benchmark.py --suite=transforms      # ours, KerasCV's and Keras'
    KERAS_BACKEND=jax python benchmarks/benchmark.py --suite=groups      # what rates for each block cost
    python benchmarks/benchmark.py --suite=memory       # bfloat16, remat, accumulation
    KERAS_BACKEND=jax python benchmarks/benchmark.py --suite=tpu         # what the TPU compiler says

The step is the one users get: `compile` with the recipe's optimizer (clipping, decay groups, EMA),
then `fit`, here over batches held in memory; with --inference it is a batch of `predict` of
`evaluation.FeatureExtractor`. Every side lives in a process of its own and works only
in its turn, as two frameworks at once would fight for the cores; turns alternate, so that slow and
fast minutes of the machine meet both. One time is one turn divided by its steps.
"""

import json
import os
import sys
from pathlib import Path

from absl import app, flags

sys.path.append(str(Path(__file__).parents[1] / "experiments"))  # its time_left

from accelerator.suite import accelerator_suite
from groups import groups_suite
from input_pipeline import measure_input
from measure import describe, measure
from memory import memory_suite
from suites import (
    SIZES,
    cpu_suite,
    installed_backends,
    sweep_suite,
)
from transforms import transforms_suite

flags.DEFINE_enum("size", "tiny", list(SIZES), "preset and batch size of a standard measurement")
flags.DEFINE_enum(
    "suite",
    None,
    ["cpu", "sweep", "accelerator", "transforms", "groups", "memory", "tpu"],
    "a table of measurements",
)
flags.DEFINE_list(
    "backends",
    None,
    "of --suite=cpu, sweep, memory and accelerator (jax, torch); default all installed ones",
)
flags.DEFINE_bool("rehearse", False, "run --suite=accelerator with a tiny model, on any machine")
flags.DEFINE_string(
    "only", None, "words that a part of --suite=accelerator must hold, to run it again"
)
flags.DEFINE_float("seconds", 520, "for all parts of --suite=accelerator together", lower_bound=60)
flags.DEFINE_list("topology", None, "of --suite=tpu: kinds and shapes of chips, such as v5e:2x2")
flags.DEFINE_list("layout", None, "of --suite=tpu: data, fsdp or fsdp:4x2 (mesh)")
flags.DEFINE_list("work", None, "of --suite=tpu: pretrain, classify, segment, forward")
flags.DEFINE_bool("remat", False, "of --suite=tpu: compute blocks again in the backward pass")
flags.DEFINE_integer("groups", 0, "of --suite=tpu: kinds of instructions that move most to show")
flags.DEFINE_string("hlo", None, "of --suite=tpu: file for the text of the last program")
flags.DEFINE_integer("timeout", 1200, "of --suite=tpu: seconds for one row", lower_bound=1)
flags.DEFINE_enum(
    "device",
    None,
    ["h100", "tpu_v5e", "tpu_v5p", "tpu_v6e"],
    "data sheet for the MFU of --suite=accelerator; default that of the device",
)
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
flags.DEFINE_string(
    "against",
    None,
    "Folder of another version's checkout, which is measured in turn in place of plain PyTorch.",
)
flags.DEFINE_bool("input", False, "measure loading and augmenting of JPEG files against Pillow")
flags.DEFINE_string(
    "json",
    None,
    "file to write all figures to; of --suite=accelerator a line is added for each part",
)
FLAGS = flags.FLAGS


def run_suite(options):
    """Prints the table of --suite; returns whether a part of it failed."""
    if FLAGS.reference or FLAGS.inference or (FLAGS.json and FLAGS.suite != "accelerator"):
        raise app.UsageError("--suite takes no --reference or --inference, and no --json.")
    if FLAGS.suite == "tpu":
        return tpu_rows()
    if FLAGS.suite == "transforms":
        return transforms_suite(FLAGS.steps, FLAGS.repeats)
    if FLAGS.suite == "groups":
        return groups_suite(options, FLAGS.steps, FLAGS.repeats)
    backends = FLAGS.backends or installed_backends()
    if unknown := set(backends) - set(installed_backends()):
        raise app.UsageError(f"No such backend is installed: {', '.join(sorted(unknown))}.")
    if FLAGS.suite == "accelerator":
        if FLAGS.preset or FLAGS.batch_size:
            raise app.UsageError(
                "--suite=accelerator measures base and large; it takes no --preset or --batch_size."
            )
        options |= {"threads": os.cpu_count(), "device": FLAGS.device, "rehearse": FLAGS.rehearse}
        return accelerator_suite(options, backends, FLAGS.seconds, FLAGS.only, FLAGS.json)
    suite = {"cpu": cpu_suite, "sweep": sweep_suite, "memory": memory_suite}[FLAGS.suite]
    return suite(options, FLAGS.steps, FLAGS.repeats, backends)


def tpu_rows():
    """The rows of --suite=tpu: those of BUILD.md, or every combination of what the flags name."""
    from tpu import suite  # the library, which other suites load in the processes of their sides

    names = ("preset", "batch_size", "topology", "layout", "work", "dtype", "remat", "hlo")
    if not any(FLAGS[name].present for name in names):
        return suite.tpu_suite(suite.standard_cases(), FLAGS.timeout, FLAGS.groups)
    unknown = set(FLAGS.work or ()) - set(suite.WORKS)
    if unknown:
        raise app.UsageError(f"--work is of {', '.join(suite.WORKS)}, not {', '.join(unknown)}.")
    chosen = {
        "preset": [FLAGS.preset or SIZES["base"][0]],
        "topology": FLAGS.topology or ["v5e:2x2"],
        "layout": FLAGS.layout or ["data"],
        "work": FLAGS.work or ["pretrain"],
        "dtype": [FLAGS.dtype if FLAGS["dtype"].present else "bfloat16"],
        "hlo": [FLAGS.hlo],
    }
    cases = suite.product_cases([FLAGS.batch_size or 64], FLAGS.remat, **chosen)
    return suite.tpu_suite(cases, FLAGS.timeout, FLAGS.groups)


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
        "against": FLAGS.against and os.path.abspath(FLAGS.against),
    }
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        os.environ[name] = str(FLAGS.threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        if FLAGS.input:
            if FLAGS.suite or FLAGS.reference or FLAGS.inference or FLAGS.json:
                raise app.UsageError("--input takes --threads, --steps and --repeats only.")
            measure_input(FLAGS.threads, FLAGS.steps, FLAGS.repeats)
            return
        if FLAGS.against and not os.path.isdir(os.path.join(FLAGS.against, "nepa_keras")):
            raise app.UsageError(
                f"--against={FLAGS.against} is no checkout with a nepa_keras/ in it."
            )
        if FLAGS.suite:
            sys.exit(run_suite(options))
        report = measure(
            options, FLAGS.steps, FLAGS.repeats, bool(FLAGS.reference or FLAGS.against)
        )
    except (RuntimeError, ValueError, ImportError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("\nbenchmark.py: stopped", file=sys.stderr)
        sys.exit(130)
    print(describe(report))
    if FLAGS.json:
        with open(FLAGS.json, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    app.run(main)
