"""`benchmark.py --suite=memory`: memory and time of an update with bfloat16, remat and accumulation.

All updates use the same number of images. Each case has its own process; the cases of a backend work in turn.
"""

import os
import resource
import statistics
import sys

from measure import Side
from sides import KerasSide
from time_left import counter

PARTS = 4  # batches per update with accumulation
CASES = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "remat": {"overrides": {"remat": True}},
    f"{PARTS} batches": {"accumulation_steps": PARTS},
    "all three": {
        "dtype": "bfloat16",
        "overrides": {"remat": True},
        "accumulation_steps": PARTS,
    },
}


class MemorySide(KerasSide):
    """Side that counts updates instead of batches, and records the memory before the first update."""

    def __init__(self, options):
        self.parts = options.get("accumulation_steps", 1)
        super().__init__(options | {"batch_size": options["batch_size"] // self.parts})
        self.model.optimizer.build(self.model.trainable_variables)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.facts["start_memory_bytes"] = peak

    def run(self, steps):
        super().run(steps * self.parts)


def memory_suite(options, steps: int, repeats: int, backends) -> bool:
    """Print a Markdown table row by row; return True if a backend failed."""
    head = "backend | update | memory before | additional peak memory | time per update | ratio of times"
    print(f"| {head} |\n|{'---|' * (head.count('|') + 1)}", flush=True)
    failed = False
    # Make the C library return large blocks at once, so that the peak counts only memory in use.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    for backend in backends:
        case = options | {"backend": backend, "inference": False}
        try:
            sides = {name: Side(MemorySide, case | more) for name, more in CASES.items()}
            count = counter((repeats + 1) * len(sides), f"{backend}: turn", sys.stderr)
            for _ in range(repeats + 1):
                for side in sides.values():
                    side.turn(steps)
                    count()
        except RuntimeError as error:
            print(f"| {backend} | {error} |", flush=True)
            failed = True
            continue
        first = sides["float32"].seconds[1:]  # the first turn warms up
        for name, side in sides.items():
            start, turns = side.figures["start_memory_bytes"], side.seconds[1:]
            ratio = statistics.median(b / a for a, b in zip(first, turns, strict=True))
            cells = [
                backend,
                name,
                f"{start / 2**20:.0f} MiB",
                f"{(side.figures['peak_memory_bytes'] - start) / 2**20:.0f} MiB",
                f"{statistics.median(turns):.2f} s",
                f"{ratio:.2f}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)
            side.pipe.send(None)
            side.process.join()
    return failed
