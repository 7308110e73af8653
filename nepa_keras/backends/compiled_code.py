"""Folder for compiled code, one per kind of processor."""

import hashlib
import os
import platform
from pathlib import Path


def folder_of_processor(folder: str | os.PathLike) -> str:
    """Return a subfolder for this processor, as the compilers' cache keys omit its instruction set.

    Code compiled on a machine with other instructions, where the run was before, would crash the process.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        instructions = next(x for x in lines if x.startswith(("flags", "Features")))
    except (OSError, StopIteration):  # not Linux
        instructions = platform.processor()
    name = hashlib.sha256(instructions.encode()).hexdigest()[:8]
    return os.path.abspath(Path(folder, f"{platform.machine()}-{name}"))
