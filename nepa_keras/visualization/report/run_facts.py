"""What is known of a run: from its folder, from the model, from the process that writes the report."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import keras


def facts_of_folder(run_dir: Path) -> dict[str, str]:
    """Command, versions and times from flags.txt and log.csv, as far as they are there."""
    facts = {}
    flags = run_dir / "flags.txt"
    if flags.exists():
        notes = [line[1:].strip() for line in _lines(flags) if line.startswith("#")]
        # As `flags_text` of the scripts writes them: the command, then the versions.
        facts |= dict(zip(("Command", "Trained with"), notes, strict=False))
        facts["Begun"] = _time(flags.stat().st_mtime)
    log = run_dir / "log.csv"
    if log.exists():
        facts["Last row of the log"] = _time(log.stat().st_mtime)
    return facts


def flags_of_folder(run_dir: Path) -> list[tuple[str, str]]:
    """(name, value) of the flags that repeat the run; none where flags.txt is missing."""
    flags = run_dir / "flags.txt"
    if not flags.exists():
        return []
    lines = (line.removeprefix("--") for line in _lines(flags) if line.startswith("--"))
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def tables_of_folder(run_dir: Path) -> dict[str, list[list[str]]]:
    """Rows of the Markdown tables that a run left as *.md, by the names of the files."""
    tables = {}
    for path in sorted(run_dir.glob("*.md")):
        lines = [line.strip().strip("|") for line in _lines(path) if line.startswith("|")]
        rows = [[cell.strip() for cell in line.split("|")] for line in lines]
        if len(rows) > 2:  # the second one is the rule below the head
            tables[path.stem] = [rows[0], *rows[2:]]
    return tables


def facts_of_model(model: keras.Model) -> dict[str, str]:
    """Size and shape of the model, and where its weights are."""
    backbone = getattr(model, "backbone", model)
    shape = "\N{MULTIPLICATION SIGN}".join(map(str, backbone.image_shape))
    cells = backbone.patch_embedding.grid((None, *backbone.image_shape))
    grid = "\N{MULTIPLICATION SIGN}".join(map(str, cells))
    device = str(getattr(model.variables[0].value, "device", "of unknown name"))
    return {
        "Model": f"{type(model).__name__}, {model.count_params():,} parameters",
        "Backbone": f"{backbone.num_layers} blocks of width {backbone.hidden_dim}, "
        f"{backbone.num_heads} heads, inputs {shape} as {grid} tokens, "
        f"{backbone.dtype_policy.name}",
        "Maps computed with": f"{keras.backend.backend()}, device {device.rsplit('device:', 1)[-1]}",
    }


def facts_of_process() -> dict[str, str]:
    """Versions and machine of the process that writes the report."""
    packages = {"nepa_keras": "nepa_keras", "Keras": "keras", "NumPy": "numpy"}
    backend = keras.backend.backend()
    versions = {name: _version(package) for name, package in packages.items()}
    versions[backend] = _version(backend) or _version(f"{backend}-cpu")
    versions["Python"] = platform.python_version()
    known = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
    return {
        "Report written": f"{_time(time.time())}, {known}",
        "Machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
    }


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(seconds))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
