"""Profile a training step on CPU: time by kind of kernel.

    KERAS_BACKEND=jax python benchmarks/profile_step.py --size=base --dtype=bfloat16

The script profiles the step of `benchmark.py` with the profiler of the backend, and prints the time of each
kind of kernel and its fraction of the total. On JAX and TensorFlow an XLA kernel is classified by the
costliest of its HLO instructions (a product fused with a GELU is a product). The times are summed over
threads, so that two busy cores give up to twice the duration of the step; work of a second core inside one
kernel is not recorded. On PyTorch an operator is classified by its name and its time is that of the calling
thread, so that the sum is the duration of the step. Reading TensorFlow's trace needs JAX.
"""

import collections
import os
import re
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from absl import app, flags

sys.path.append(str(Path(__file__).parents[1] / "experiments"))  # needed by suites

from sides import KerasSide
from suites import SIZES

flags.DEFINE_enum(
    "size",
    "tiny",
    list(SIZES),
    "Architecture and batch size: ViT-tiny with 8 images, or ViT-base with 2.",
)
flags.DEFINE_string("preset", None, "Name of the architecture, in place of that of --size.")
flags.DEFINE_integer("batch_size", None, "Images per step; default that of --size.", lower_bound=1)
flags.DEFINE_integer(
    "steps", 3, "Number of profiled steps, after three that warm up.", lower_bound=1
)
flags.DEFINE_integer("threads", 2, "Number of CPU cores and threads.", lower_bound=1)
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Precision of the computation.")
FLAGS = flags.FLAGS

# Kinds of kernels. The first kind applies one of whose words is an opcode of the kernel, or part of the
# operator's name.
HLO_KINDS = {
    "products of attention": ("batched_dot",),
    "dense products": ("dot", "custom-call"),
    "softmax": ("exponential",),
    "GELU": ("erf",),
    "norms": ("rsqrt",),
    "optimizer": ("sqrt",),
    "reductions": ("reduce", "reduce-window"),
    "element-wise": ("multiply", "add", "subtract", "select", "divide"),
    "copies and conversions": ("copy", "transpose", "concatenate", "slice", "convert", "pad"),
}
TORCH_KINDS = {
    "attention": ("scaled_dot_product", "flash_attention"),
    "dense products": ("aten::mm", "aten::addmm", "aten::bmm", "mkldnn", "convolution"),
    "GELU": ("gelu",),
    "norms": ("layer_norm", "rms_norm", "rsqrt"),
    "optimizer": ("_fused_adamw", "_foreach"),
    "reductions": ("aten::sum", "aten::mean", "_norm"),
    "element-wise": (
        "aten::mul",
        "aten::add",
        "aten::sub",
        "aten::neg",
        "aten::div",
        "aten::where",
    ),
    "copies and conversions": ("aten::copy_", "aten::cat", "aten::clone", "aten::fill_"),
}


def kind(words, kinds) -> str:
    """Name of the first of `kinds` that has one of the words; "other" if none has."""
    for name, marks in kinds.items():
        if any(mark in words for mark in marks):
            return name
    return "other"


def hlo_instructions(text: str) -> dict[str, set[str]]:
    """Opcodes of each instruction of an HLO module, including those of the computation it calls."""
    line = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = .*?[\])}] ([\w-]+)\(")
    computations, called, opcodes = collections.defaultdict(set), {}, {}
    computation = None
    for row in text.splitlines():
        if start := re.match(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$", row):
            computation = start[1]
        elif found := line.match(row):
            name, opcode = found.groups()
            if opcode == "dot" and "batch_dims={}" not in row and "batch_dims=" in row:
                opcode = "batched_dot"
            computations[computation].add(opcode)
            opcodes[name] = opcode
            if calls := re.search(r"(?:calls|to_apply)=%?([\w.-]+)", row):
                called[name] = calls[1]
    return {
        name: {code} | computations.get(called.get(name), set()) for name, code in opcodes.items()
    }


def xla_kernels(side, backend: str, folder: Path):
    """Nanoseconds of each kind of kernel, over all threads; `XLA_FLAGS` must dump the HLO into `folder`."""
    trace = str(folder / "trace")
    if backend == "jax":
        import jax

        with jax.profiler.trace(trace):
            side.run(FLAGS.steps)
    else:
        import tensorflow as tf

        tf.profiler.experimental.start(trace)
        side.run(FLAGS.steps)
        tf.profiler.experimental.stop()
    from jax.profiler import ProfileData

    dump = max(folder.glob("*after_optimizations.txt"), key=lambda path: path.stat().st_size)
    instructions = hlo_instructions(dump.read_text())
    spent = collections.Counter()
    (recorded,) = (folder / "trace").rglob("*.xplane.pb")
    for plane in ProfileData.from_file(str(recorded)).planes:
        for event in (event for line in plane.lines for event in line.events):
            words = instructions.get(event.name, set())
            if words and not words & {
                "call",
                "while",
                "conditional",
            }:  # their parts are events too
                spent[kind(words, HLO_KINDS)] += event.duration_ns
    return spent


def torch_operators(side):
    """Nanoseconds of each kind of operator, without the operators it calls."""
    import torch

    with torch.profiler.profile() as profile:
        side.run(FLAGS.steps)
    spent = collections.Counter()
    for row in profile.key_averages():
        spent[kind(row.key, TORCH_KINDS)] += 1000 * row.self_cpu_time_total
    return spent


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; all settings are flags.")
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend == "tensorflow" and find_spec("jax") is None:
        sys.exit(
            "profile_step.py: reading TensorFlow's trace needs JAX; install it by pip install jax."
        )
    preset, batch_size = SIZES[FLAGS.size]
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        os.environ[name] = str(FLAGS.threads)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: FLAGS.threads])
    if backend != "tensorflow":
        sys.modules["tensorflow"] = None  # as in benchmark.py
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XLA_FLAGS"] = " ".join(
            [os.environ.get("XLA_FLAGS", ""), f"--xla_dump_to={folder} --xla_dump_hlo_as_text"]
        )
        side = KerasSide(
            {
                "preset": FLAGS.preset or preset,
                "batch_size": FLAGS.batch_size or batch_size,
                "dtype": FLAGS.dtype,
                "jit_compile": "auto",
                "inference": False,
            }
        )
        side.run(3)
        started = time.perf_counter()
        side.run(FLAGS.steps)
        step = (time.perf_counter() - started) / FLAGS.steps
        by_torch = backend == "torch"
        spent = torch_operators(side) if by_torch else xla_kernels(side, backend, Path(folder))
    peak = side.matmul_flops_per_second(FLAGS.dtype)
    bound = side.facts["step_flops"] / peak
    print(
        f"{side.facts['name']}, {FLAGS.preset or preset}, {FLAGS.dtype}, {FLAGS.threads} threads: "
        f"a step takes {1e3 * step:.0f} ms; its matrix products alone would take {1e3 * bound:.0f} ms at the "
        f"{peak / 1e9:.0f} GFLOP/s measured for a large square matrix product"
    )
    total = sum(spent.values())
    for name, nanoseconds in spent.most_common():
        print(f"{name:24} {nanoseconds / 1e6 / FLAGS.steps:8.1f} ms {nanoseconds / total:6.1%}")
    print(f"{'total':24} {total / 1e6 / FLAGS.steps:8.1f} ms")


if __name__ == "__main__":
    app.run(main)
