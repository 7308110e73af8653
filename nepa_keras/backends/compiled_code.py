"""Where compiled code is kept: in a folder for each kind of processor."""

import hashlib
import os
import platform
from pathlib import Path


def folder_of_processor(folder: str | os.PathLike) -> str:
    """A folder below, as the compilers' keys leave out the instructions that the processor has.

    Code with others, from another machine that the run was on before, would end the process without a word.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        instructions = next(x for x in lines if x.startswith(("flags", "Features")))
    except (OSError, StopIteration):  # not Linux
        instructions = platform.processor()
    name = hashlib.sha256(instructions.encode()).hexdigest()[:8]
    return os.path.abspath(Path(folder, f"{platform.machine()}-{name}"))
