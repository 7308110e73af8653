"""`benchmark.py --suite=tpu`: steps by the real TPU compiler, without a TPU; a process for each."""

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
    "--suite=tpu needs the TPU compiler, libtpu, in an environment of its own with JAX: "
    "pip install 'nepa_keras[tpu]'."
)


@dataclass(frozen=True)
class Case:
    """One step that is compiled.

    Attributes:
        preset: architecture.
        batch_size: images a chip.
        work: "pretrain", "classify" or "segment" (training steps), or "forward" (without gradients).
        topology: as the compiler names it, such as "v5e:2x2".
        layout: "data", "fsdp" or "fsdp:4x2", as `nepa_keras.distribute` has kind and mesh.
        dtype: of the computation, "float32" or "bfloat16".
        remat: whether blocks are computed again in the backward pass.
        hlo: file for the compiled program's text, or None.
    """

    preset: str
    batch_size: int
    work: str = "pretrain"
    topology: str = "v5e:2x2"
    layout: str = "data"
    dtype: str = "bfloat16"
    remat: bool = False
    hlo: str | None = None


# Images a chip of pretraining and what else runs, float32, segmentation.
_SIZES = {"nepa_base_patch14_224": (64, 32, 4), "nepa_large_patch14_224": (16, 8, 2)}


def standard_cases() -> list[Case]:
    """The rows of BUILD.md."""
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
    """Every combination of what was chosen.

    Args:
        batch_sizes: images a chip.
        remat: of all.
        **choices: values of attributes of `Case`, in the plural's place: preset=["nepa_base_patch14_224"].
    """
    combinations = itertools.product(*choices.values(), batch_sizes)
    return [
        Case(**dict(zip(choices, values, strict=True)), batch_size=batch_size, remat=remat)
        for *values, batch_size in combinations
    ]


def require_compiler() -> None:
    """Refuse where libtpu or JAX is missing.

    Raises:
        ImportError: it is; the message says what to install.
    """
    if not all(importlib.util.find_spec(name) for name in ("jax", "libtpu")):
        raise ImportError(NO_COMPILER)


def compile_case(case: Case, timeout: float) -> dict:
    """The case with what the compiler says of it, or with the reason why it says nothing."""
    environment = {
        **{"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        # To look for no TPU, and beside another compilation, as no chip is held that could be taken.
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
    """Prints a line of JSON for each case as it comes, then the table; returns whether a process failed.

    That a step does not fit is a result and no failure.

    Args:
        cases: the rows.
        timeout: seconds that one may take.
        groups: of instructions that move most, which a line shows.
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
    """The results as Markdown."""
    heads = (
        *("model", "step", "topology", "layout", "dtype", "remat", "images a chip"),
        *("state GiB", "temporary GiB", "HBM MB an image", "GFLOP an image (model's)"),
        *("collectives, MB sent", "images/s at most"),
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
