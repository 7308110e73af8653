"""The rules of the code base, checked over its source: who may know whom, and who names a backend."""

import ast
import importlib
import inspect
import os
import pkgutil
import re
from pathlib import Path

import pytest

import nepa_keras
from tests.helpers import ROOT
from tests.helpers.scripts import run_python

PACKAGE = ROOT / "nepa_keras"
FILES = sorted(PACKAGE.rglob("*.py"))
BACKEND_PACKAGES = {"jax", "jaxlib", "torch", "torchvision", "tensorflow"}
# KerasCV's layers run in tf.data whatever the backend: TensorFlow is what it is made of, no backend there.
NAMED_ELSEWHERE = {"data/keras_cv_batches.py": {"tensorflow"}}

# Part -> parts it may import. `backends` knows nothing of ours, layers know only it, and so on up:
# backbone -> models -> everything that uses models.
MODELS = {"nepa", "classifier", "segmenter", "rollout"}
USERS = {"training", "data", "evaluation", "visualization", "interop"}
ALLOWED = {
    "backends": set(),
    "distribution": {"backends"},
    "presets": set(),
    "persistence": {"interop"},  # the models' door to files; imports when called
    "layers": {"backends"},
    "backbone": {"layers", "backends", "persistence"},
    "guarded": {"backends"},
    "nepa": {"backbone", "layers", "backends", "persistence", "guarded"},
    "classifier": {"backbone", "layers", "backends", "persistence", "guarded"},
    "segmenter": {"backbone", "layers", "backends", "persistence", "guarded"},
    "rollout": {"nepa", "backbone", "backends"},
    "training": {"backends", "backbone", "distribution", "layers", "guarded"} | MODELS,
    "data": {"persistence"},
    "evaluation": {"backends", "backbone", "data", "guarded", "layers", "training"} | MODELS,
    "visualization": {"backbone", "data"} | MODELS,
    "interop": {"backbone", "presets", "layers", "data", "training"} | MODELS,
}


def part(path: Path) -> str:
    """The top-level module or folder of a file, "" for the package's own __init__."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py") if first != "__init__.py" else ""


def imports(path: Path) -> set[str]:
    """Full names of all modules a file imports, at any depth of nesting."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_parts(path: Path) -> set[str]:
    """Parts of nepa_keras that a file imports."""
    known = set(ALLOWED)
    return {
        pieces[1]
        for pieces in (name.split(".") for name in imports(path))
        if pieces[0] == "nepa_keras" and len(pieces) > 1 and pieces[1] in known
    }


@pytest.mark.once
@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_dependencies_point_one_way(path):
    """Layers know nothing of training, models nothing of files, data nothing of models."""
    here = part(path)
    if not here:
        return
    assert here in ALLOWED, f"say in {Path(__file__).name} what the new part {here!r} may import"
    forbidden = own_parts(path) - ALLOWED[here] - {here}
    assert not forbidden, f"{path.relative_to(ROOT)} may not import {sorted(forbidden)}"


@pytest.mark.once
def test_backends_are_named_in_their_folder_only():
    for path in FILES:
        named = {name.split(".")[0] for name in imports(path)} & BACKEND_PACKAGES
        relative = str(path.relative_to(PACKAGE))
        if relative.startswith("backends/"):
            continue
        named -= NAMED_ELSEWHERE.get(relative, set())
        assert not named, f"{relative} imports {sorted(named)}"


@pytest.mark.once
def test_backend_modules_have_the_same_names():
    """One module each, the same functions with the same arguments in all three."""
    exported = {}
    for backend in ("jax", "tensorflow", "torch"):
        tree = ast.parse((PACKAGE / "backends" / f"{backend}.py").read_text())
        (names,) = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
        ]
        exported[backend] = sorted(names)
    assert exported["jax"] == exported["tensorflow"] == exported["torch"]


@pytest.mark.once
def test_the_paper_is_one_short_file():
    assert len((PACKAGE / "nepa.py").read_text().splitlines()) < 150


@pytest.mark.once
def test_files_are_short_and_named_for_what_they_hold():
    lengths = sorted(len(path.read_text().splitlines()) for path in FILES)
    assert lengths[len(lengths) // 2] < 150, "median length"
    assert lengths[-1] <= 300, "longest file"
    assert not {p.stem for p in FILES} & {"utils", "common", "misc", "helpers"}


@pytest.mark.once
def test_no_error_is_swallowed_and_no_task_left_in_comments():
    """Who catches everything raises it again, under a better name."""
    for path in FILES:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                if caught in ("everything", "Exception", "BaseException"):
                    assert isinstance(node.body[-1], ast.Raise), f"{path}:{node.lineno}"
        assert not re.search(r"\b(TODO|FIXME|XXX)\b", text), path


def test_import_is_light():
    """With this run's backend no other backend is imported, and nothing for pictures or probes."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    listing = "print(*sorted({m.split('.')[0] for m in sys.modules}))"
    result = run_python("-c", f"import sys, keras; {listing}; import nepa_keras; {listing}")
    assert result.returncode == 0, result.stderr
    keras_alone, loaded = (set(line.split()) for line in result.stdout.splitlines())
    assert {backend, "nepa_keras"} <= loaded
    heavy = {
        "matplotlib",
        "sklearn",
        "PIL",
        "safetensors",
        "pyarrow",
        "google",
        "simplejpeg",
        "scipy",
        "pandas",
        "tensorboard",
    }
    added = sorted((loaded - keras_alone) & (heavy | BACKEND_PACKAGES))
    assert not added, f"import nepa_keras imports {added}"
    if backend != "tensorflow":
        assert "tensorflow" not in loaded


@pytest.mark.once
def test_public_methods_have_docstrings():
    """Their own, or that of the method they override; what Keras asks for, Keras describes."""
    without = []
    for module in pkgutil.walk_packages(nepa_keras.__path__, "nepa_keras."):
        if module.name.startswith("nepa_keras.backends"):
            continue
        for _, owner in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if owner.__module__ != module.name or owner.__name__.startswith("_"):
                continue
            foreign = [base for base in owner.__mro__ if "nepa_keras" not in base.__module__]
            without += [
                f"{module.name}.{owner.__name__}.{name}"
                for name, value in vars(owner).items()
                if not name.startswith("_")
                and (inspect.isroutine(value) or isinstance(value, property))
                and not any(name in vars(base) for base in foreign)
                and not inspect.getdoc(getattr(owner, name))
            ]
    assert not without


@pytest.mark.once
def test_public_surface():
    """Everything listed exists, and each exported class and function explains itself."""
    for name in nepa_keras.__all__:
        value = getattr(nepa_keras, name)
        assert isinstance(value, dict) or value.__doc__, f"{name} has no docstring"
    for name in nepa_keras.layers.__all__:
        assert getattr(nepa_keras.layers, name).__doc__, f"layers.{name} has no docstring"
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} does not say what it holds"
