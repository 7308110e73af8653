"""`benchmark.py --suite=accelerator`: all measurements of a GPU or TPU that is available for minutes only.

The most important parts come first. Each runs in its own process with a time limit and adds a line to the
JSON file when it ends, so that a part that hangs or runs out of memory costs only its own time.
"""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PRESETS = {"base": "nepa_base_patch14_224", "large": "nepa_large_patch14_224"}
REHEARSED = {"preset": "nepa_micro_patch7_28", "overrides": {"image_shape": (28, 28, 3)}}
SHORTEST = 15  # seconds; with less time left no part is started


@dataclass(frozen=True)
class Part:
    """One measurement.

    `how` is jax, torch (eager), torch compiled, plain or plain compiled (the PyTorch reference).
    """

    work: str  # exactness, steps or kernels
    how: str
    limit: int  # seconds
    size: str = ""
    batch_size: int = 0

    @property
    def name(self):
        return " ".join(
            str(word) for word in (self.work, self.how, self.size, self.batch_size) if word
        )

    @property
    def backend(self):
        return "jax" if self.how == "jax" else "torch"


PARTS = (
    Part("exactness", "jax", 90),
    Part("exactness", "torch", 60),
    Part("steps", "jax", 120, "base", 256),
    Part("steps", "torch compiled", 150, "base", 256),
    Part("steps", "plain compiled", 120, "base", 256),
    Part("kernels", "jax", 120, "base", 256),
    Part("kernels", "torch compiled", 120, "base", 256),
    Part("steps", "jax", 120, "large", 128),
    Part("steps", "torch compiled", 150, "large", 128),
    Part("steps", "plain compiled", 120, "large", 128),
    Part("steps", "torch", 60, "base", 256),
    Part("steps", "plain", 60, "base", 256),
    *(Part("steps", "jax", 90, "base", batch_size) for batch_size in (64, 128, 512)),
    *(Part("steps", "torch compiled", 90, "base", batch_size) for batch_size in (64, 128, 512)),
    Part("steps", "torch", 90, "large", 128),
    Part("steps", "plain", 90, "large", 128),
    Part("steps", "jax", 120, "large", 256),
    Part("steps", "torch compiled", 120, "large", 256),
)


def accelerator_suite(options, backends, seconds, only, file):
    """Measure the parts in turn, and print each result.

    Args:
        options: options of `sides`; also "device", the name of a data sheet or None for that of the device in
            use, and "rehearse", whether to measure a tiny model, to test the command without an accelerator.
        backends: backends whose parts are measured; plain PyTorch counts as torch.
        seconds: time limit for all parts; a part for which no time is left is reported as failed.
        only: words that the name of a part must contain, or None.
        file: file to which a line of JSON is added for each part, or None.

    Returns:
        True if a part failed.

    Raises:
        ValueError: no part matches.
    """
    parts = [p for p in PARTS if p.backend in backends and (only or "") in p.name]
    if not parts:
        raise ValueError(
            f"No part of the suite for {', '.join(backends)} contains {only or ''!r}; the parts are: "
            + ", ".join(part.name for part in PARTS)
        )
    if options["rehearse"]:  # all sizes are the same then
        parts = list({(p.work, p.how): p for p in reversed(parts)}.values())[::-1]
    failed, deadline = False, time.monotonic() + seconds
    for part in parts:
        row = {"part": part.name}
        limit = min(300 if options["rehearse"] else part.limit, deadline - time.monotonic())
        if limit < SHORTEST:
            row["error"] = "no time was left"
        else:
            row |= _measure(part_options(part, options), limit)
        failed |= "error" in row
        print(describe(row), flush=True)
        if file:
            with open(file, "a") as lines:
                lines.write(json.dumps(row) + "\n")
    return failed


def part_options(part, options):
    """Options for the process of a part."""
    options = options | {
        "work": part.work,
        "backend": part.backend,
        "plain": part.how.startswith("plain"),
        "compiled": part.how.endswith("compiled"),
        "jit_compile": "false" if part.how == "torch" else "true",
        "dtype": "bfloat16",
        "pixels": True,
        "inference": False,
    }
    if part.size:
        options |= {"preset": PRESETS[part.size], "batch_size": part.batch_size}
        if options["rehearse"]:
            options |= {"batch_size": 8} | REHEARSED
    return options


def _measure(options, limit):
    command = [sys.executable, str(Path(__file__).with_name("parts.py")), json.dumps(options)]
    started = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        row = {"error": f"longer than {limit:.0f} s"}
    else:
        found = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        row = (
            json.loads(found[-1].removeprefix("RESULT "))
            if found
            else {"error": _last(done.stderr)}
        )
    return row | {"wall_s": round(time.monotonic() - started, 1)}


def _last(text):
    """Last lines of a process's output, which state why it failed."""
    return "\n".join(text.strip().splitlines()[-4:])[-800:] or "ended without an error message"


def describe(row):
    """Figures of a part as text."""
    lines = [f"{row['part']} ({row.get('wall_s', 0):.0f} s)"]
    if "error" in row:
        lines.append(f"failed: {row['error']}")
    elif "step_ms" in row:
        memory, mfu, predicted = (row.get(key) for key in ("memory_gb", "mfu", "predicted_ms"))
        lines.append(
            f"{statistics.median(row['step_ms']):.1f} ms per step, {row['images_per_second']:.0f} images/s"
            + (f", MFU {mfu:.1%}" if mfu else "")
            + (f" ({predicted:.1f} ms by the roofline)" if predicted else "")
            + (f", {memory:.1f} GB" if memory else "")
            + f", first step {row['first_step_s']:.1f} s"
        )
    elif "ms" in row:
        lines += [f"{ms:9.3f} ms  {name}" for name, ms in row["ms"].items()]
        lines.append(f"{row['all_ms']:9.3f} ms  all kernels together")
    else:
        for name, away in (item for item in row.items() if isinstance(item[1], dict)):
            lines.append(
                f"{name}: states {away['states_largest']:.1e} at most, "
                f"{away['states_relative']:.1e} in norm, loss {away['loss']:.1e}"
            )
    return "\n  ".join(lines)
