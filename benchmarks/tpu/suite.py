"""`benchmark.py --suite=tpu`: steps compiled by the real TPU compiler, without a TPU, in a process each."""

import dataclasses
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nepa_keras.tables import markdown_table

WORKS = ("pretrain", "classify", "segment", "forward")
NO_COMPILER = (
    "--suite=tpu needs the TPU compiler, libtpu, in a separate environment with JAX: "
    "pip install 'nepa_keras[tpu]'."
)


@dataclass(frozen=True)
class Case:
    """A step to compile.

    Attributes:
        preset: name of the architecture.
        batch_size: images per chip.
        work: "pretrain", "classify" or "segment" (training steps), or "forward" (without gradients).
        topology: compiler's name of the chips, such as "v5e:2x2".
        layout: kind and mesh of `nepa_keras.distribute`: "data", "fsdp" or "fsdp:4x2".
        dtype: precision of the computation, "float32" or "bfloat16".
        remat: whether blocks are recomputed in the backward pass.
        hlo: file for the text of the compiled program, or None.
    """

    preset: str
    batch_size: int
    work: str = "pretrain"
    topology: str = "v5e:2x2"
    layout: str = "data"
    dtype: str = "bfloat16"
    remat: bool = False
    hlo: str | None = None


# Images per chip: by default, in float32, in segmentation.
_SIZES = {"nepa_base_patch14_224": (64, 32, 4), "nepa_large_patch14_224": (16, 8, 2)}


def standard_cases() -> list[Case]:
    """Cases of the table in docs/performance.md."""
    cases = []
    for preset, (batch_size, in_float32, segmented) in _SIZES.items():
        usual = Case(preset, batch_size)
        changes: list[dict] = [
            {},
            {"remat": True},
            {"dtype": "float32", "batch_size": in_float32},
            {"layout": "fsdp"},
            {"topology": "v5e:1x1"},
            {"topology": "v5e:8x8"},
            {"topology": "v5e:8x8", "layout": "fsdp"},
            {"topology": "v5e:8x8", "layout": "fsdp:8x8"},
            {"topology": "v6e:2x2"},
            {"work": "classify"},
            {"work": "segment", "batch_size": segmented},
            {"work": "forward", "topology": "v5e:1x1"},
        ]
        cases += [dataclasses.replace(usual, **change) for change in changes]
    return cases


def product_cases(batch_sizes: Sequence[int], remat: bool, **choices: Sequence[str]) -> list[Case]:
    """All combinations of the given values.

    Args:
        batch_sizes: images per chip.
        remat: `Case.remat` of all cases.
        **choices: lists of values by attribute of `Case`, such as preset=["nepa_base_patch14_224"].
    """
    combinations = itertools.product(*choices.values(), batch_sizes)
    return [
        Case(**dict(zip(choices, values, strict=True)), batch_size=batch_size, remat=remat)
        for *values, batch_size in combinations
    ]


def require_compiler() -> None:
    """Check that libtpu and JAX are installed.

    Raises:
        ImportError: one is missing; the message says what to install.
    """
    if not all(importlib.util.find_spec(name) for name in ("jax", "libtpu")):
        raise ImportError(NO_COMPILER)


def compile_case(case: Case, timeout: float) -> dict:
    """Compile a case in a new process; return it with the compiler's figures or the reason of a failure."""
    environment = {
        **{"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        # Do not search for a TPU, and allow several compilations at once, as none uses a chip.
        **{"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"},
    }
    asked = dataclasses.asdict(case)
    try:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("row.py")), json.dumps(asked)],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        return asked | {"compiled": False, "reason": f"not compiled within {timeout:.0f} s"}
    if done.returncode or not done.stdout:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        return asked | {"compiled": False, "failed": True, "reason": said[-1][:300]}
    return asked | json.loads(done.stdout.splitlines()[-1])


def tpu_suite(cases: Iterable[Case], timeout: float, groups: int) -> bool:
    """Print a line of JSON for each case once compiled, then the table; return True if a process failed.

    A step that does not fit into memory is a result, not a failure.

    Args:
        cases: steps to compile.
        timeout: time limit of one case in seconds.
        groups: number of groups of instructions that move most data to print per case.
    """
    require_compiler()
    results = []
    for case in cases:
        result = compile_case(case, timeout)
        results.append(result)
        shown = result | {"largest": result.get("largest", [])[:groups]}
        print(json.dumps({k: v for k, v in shown.items() if v not in (None, [])}), flush=True)
    print(f"\n{table(results)}", flush=True)
    return any(result.get("failed") for result in results)


def table(results: Sequence[dict]) -> str:
    """Table of the results in Markdown."""
    heads = (
        *("model", "step", "topology", "layout", "dtype", "remat", "images per chip"),
        *("state GiB", "temporary GiB", "HBM MB per image", "GFLOP per image (model's)"),
        *("collectives, MB sent", "images/s, upper bound"),
    )
    return markdown_table([heads, *map(_row, results)])


def _row(result: dict) -> list[str]:
    asked = [
        *(result["preset"].removeprefix("nepa_"), result["work"], result["topology"]),
        *(result["layout"], result["dtype"], "yes" if result["remat"] else "no"),
        str(result["batch_size"]),
    ]
    if not result["compiled"]:
        return [*asked, result["reason"], *[""] * 5]
    sent = ", ".join(
        f"{number} {kind} {size / 1e6:,.0f}"
        for kind, (number, size) in result["collectives"].items()
    )
    return [
        *asked,
        f"{result['state_bytes'] / 2**30:.2f}",
        f"{result['temporary_bytes'] / 2**30:.2f}",
        f"{result['hbm_bytes_per_image'] / 1e6:,.0f}",
        f"{result['flops_per_image'] / 1e9:.0f} ({result['model_flops_per_image'] / 1e9:.0f})",
        sent or "–",
        f"{result['images_per_second_bound']:,.0f} ({result['bound_by']})",
    ]
