"""Starting the scripts under experiments/ as a person does: a process each."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def start(script: str, *flags) -> subprocess.Popen:
    """Starts experiments/`script` with the backend of this process."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "experiments" / script), *map(str, flags)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(script: str, *flags) -> subprocess.CompletedProcess:
    """Runs experiments/`script` to its end with the backend of this process."""
    return subprocess.run(
        [sys.executable, str(ROOT / "experiments" / script), *map(str, flags)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        timeout=600,
    )
