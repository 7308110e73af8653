"""Measure speed and memory of a pretraining step or of feature extraction, also against plain PyTorch.

    KERAS_BACKEND=jax python benchmarks/benchmark.py --size=tiny --reference
    KERAS_BACKEND=torch python benchmarks/benchmark.py --size=base --dtype=bfloat16
    KERAS_BACKEND=jax python benchmarks/benchmark.py --inference --reference
    python benchmarks/benchmark.py --suite=cpu          # all backends, the table of docs/performance.md
    python benchmarks/benchmark.py --suite=cpu --against=/path/to/another/checkout
    python benchmarks/benchmark.py --suite=sweep        # cost by batch size, depth and number of tokens
    python benchmarks/benchmark.py --suite=accelerator --json=FILE      # for a GPU; first with --rehearse
    KERAS_BACKEND=jax python benchmarks/benchmark.py --input      # reading of JPEG files
    KERAS_BACKEND=jax python benchmarks/benchmark.py --suite=transforms      # ours, KerasCV's and Keras'
    KERAS_BACKEND=jax python benchmarks/benchmark.py --suite=groups      # cost of a rate for each block
    python benchmarks/benchmark.py --suite=memory       # bfloat16, remat, gradient accumulation
    KERAS_BACKEND=jax python benchmarks/benchmark.py --suite=tpu         # compilation for TPU, without a TPU

Without flags the script measures ViT-tiny at batch 8 in float32 on two threads, and prints the time of a
step, images/s, MFU and peak memory.

The measured step is the one users run: `compile` with the recipe's optimizer (clipping, decay groups, EMA),
then `fit`, here over batches held in memory; with --inference, a batch of `predict` of
`evaluation.FeatureExtractor`. Each implementation (side) has its own process, and the processes work in turn,
so that they neither compete for cores nor meet different conditions of the machine. A time is the duration of
one turn divided by its steps.
"""

import json
import os
import sys
from pathlib import Path

from absl import app, flags

sys.path.append(str(Path(__file__).parents[1] / "experiments"))  # for its module time_left

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

flags.DEFINE_enum(
    "size",
    "tiny",
    list(SIZES),
    "Architecture and batch size of a standard measurement: ViT-tiny with 8 images, or ViT-base with 2.",
)
flags.DEFINE_enum(
    "suite",
    None,
    ["cpu", "sweep", "accelerator", "transforms", "groups", "memory", "tpu"],
    "Table of measurements to print instead of a single measurement.",
)
flags.DEFINE_list(
    "backends",
    None,
    "Backends measured by --suite=cpu, sweep, memory and accelerator (jax, torch only); default all "
    "installed.",
)
flags.DEFINE_bool(
    "rehearse", False, "Run --suite=accelerator with a tiny model, on any machine, as a test."
)
flags.DEFINE_string(
    "only", None, "Run only the parts of --suite=accelerator whose name contains these words."
)
flags.DEFINE_float(
    "seconds",
    520,
    "Time limit for all parts of --suite=accelerator together, in seconds.",
    lower_bound=60,
)
flags.DEFINE_list(
    "topology", None, "TPU topologies for --suite=tpu, such as v5e:2x2, separated by commas."
)
flags.DEFINE_list(
    "layout",
    None,
    "Distributions for --suite=tpu, separated by commas: data, fsdp, or fsdp:4x2 with a mesh.",
)
flags.DEFINE_list(
    "work",
    None,
    "Steps to compile for --suite=tpu, separated by commas: pretrain, classify, segment, forward.",
)
flags.DEFINE_bool(
    "remat", False, "Recompute blocks in the backward pass in the steps of --suite=tpu."
)
flags.DEFINE_integer(
    "groups",
    0,
    "Number of groups of instructions that move most data to print for each step of --suite=tpu.",
)
flags.DEFINE_string("hlo", None, "File for the text of the last program that --suite=tpu compiles.")
flags.DEFINE_integer(
    "timeout", 1200, "Time limit for one row of --suite=tpu, in seconds.", lower_bound=1
)
flags.DEFINE_enum(
    "device",
    None,
    ["h100", "tpu_v5e", "tpu_v5p", "tpu_v6e"],
    "Device whose data sheet gives the peak for the MFU of --suite=accelerator; default the one in use.",
)
flags.DEFINE_string("preset", None, "Name of the architecture, in place of that of --size.")
flags.DEFINE_integer("batch_size", None, "Images per step; default that of --size.", lower_bound=1)
flags.DEFINE_integer("steps", 5, "Number of steps in a turn.", lower_bound=1)
flags.DEFINE_integer(
    "repeats", 5, "Number of measured turns, after one that warms up.", lower_bound=1
)
flags.DEFINE_integer("threads", 2, "CPU cores and threads of each side.", lower_bound=1)
flags.DEFINE_enum(
    "dtype",
    "float32",
    ["float32", "bfloat16"],
    "Precision of the computation; weights are always float32.",
)
flags.DEFINE_enum(
    "jit_compile", "auto", ["auto", "true", "false"], "Argument jit_compile of Keras' `compile`."
)
flags.DEFINE_bool(
    "inference", False, "Measure the extraction of features instead of training steps."
)
flags.DEFINE_bool(
    "reference", False, "Measure plain PyTorch too, in alternate turns, and print the ratio."
)
flags.DEFINE_string(
    "against",
    None,
    "Checkout of another version to measure in alternate turns, in place of plain PyTorch.",
)
flags.DEFINE_bool(
    "input", False, "Measure reading and augmentation of JPEG files, compared with Pillow."
)
flags.DEFINE_string(
    "json",
    None,
    "JSON file for all figures; --suite=accelerator appends a line of JSON for each part.",
)
FLAGS = flags.FLAGS


def run_suite(options):
    """Print the table of --suite; return True if a part of it failed."""
    if FLAGS.reference or FLAGS.inference or (FLAGS.json and FLAGS.suite != "accelerator"):
        raise app.UsageError(
            "--suite takes no --reference or --inference, and --json only with --suite=accelerator."
        )
    if FLAGS.suite == "tpu":
        return tpu_rows()
    if FLAGS.suite == "transforms":
        return transforms_suite(FLAGS.steps, FLAGS.repeats)
    if FLAGS.suite == "groups":
        return groups_suite(options, FLAGS.steps, FLAGS.repeats)
    backends = FLAGS.backends or installed_backends()
    if unknown := set(backends) - set(installed_backends()):
        raise app.UsageError(
            f"--backends: not installed: {', '.join(sorted(unknown))}; installed are "
            f"{', '.join(installed_backends())}."
        )
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
    """Run --suite=tpu: the standard cases, or all combinations of the values given by flags."""
    from tpu import suite  # imports the library, which other suites load in their processes only

    names = ("preset", "batch_size", "topology", "layout", "work", "dtype", "remat", "hlo")
    if not any(FLAGS[name].present for name in names):
        return suite.tpu_suite(suite.standard_cases(), FLAGS.timeout, FLAGS.groups)
    unknown = set(FLAGS.work or ()) - set(suite.WORKS)
    if unknown:
        raise app.UsageError(
            f"--work takes {', '.join(suite.WORKS)}, not {', '.join(sorted(unknown))}."
        )
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
                f"--against={FLAGS.against} is no checkout: it has no folder nepa_keras."
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
