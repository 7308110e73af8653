"""Facts of a run: from its folder, from the model, from the process that writes the report."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import keras

from nepa_keras.presets import backbone_of
from nepa_keras.tables import read_table
from nepa_keras.training import RunDir


def facts_of_folder(run: RunDir) -> dict[str, str]:
    """Command, versions and times from flags.txt and log.csv, as far as they are there."""
    facts: dict[str, str] = {}
    if flags := run.read_flags():
        facts |= {"Command": flags.command, "Trained with": flags.versions}
        facts["Begun"] = _time(run.flags.stat().st_mtime)
    if run.log.exists():
        facts["Last row of the log"] = _time(run.log.stat().st_mtime)
    return {name: fact for name, fact in facts.items() if fact}


def flags_of_folder(run: RunDir) -> list[tuple[str, str]]:
    """Pairs (name, value) of the flags that repeat the run; none where flags.txt is missing."""
    flags = run.read_flags()
    lines = (line.removeprefix("--") for line in flags.lines) if flags else ()
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def files_of_folder(run: RunDir, pattern: str) -> list[Path]:
    """Regular files of a run that match a pattern, by name; not links to what lies elsewhere."""
    folder = run.path.resolve()
    found = sorted(run.path.glob(pattern))
    return [path for path in found if path.is_file() and path.resolve().parent == folder]


def results_of_folder(run: RunDir) -> dict[str, list[list[str]]]:
    """Rows of the tables that a run left: of *.md by the names of the files, of results.json by title.

    Raises:
        ValueError: results.json is damaged.
    """
    found = {
        path.stem: read_table(path) for path in files_of_folder(run, "*.md")
    } | run.read_results()
    return {name: rows for name, rows in found.items() if len(rows) > 1}


def facts_of_model(model: keras.Model) -> dict[str, str]:
    """Size and shape of the model, and where its weights are."""
    backbone = backbone_of(model)
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


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(seconds))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
