"""The rules of the code base, checked over its source: who may know whom, and who names a backend."""

import ast
import importlib
import inspect
import os
import pkgutil
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import nepa_keras
from tests.helpers import ROOT, public_api
from tests.helpers.scripts import run_python

PACKAGE = ROOT / "nepa_keras"
FILES = sorted(PACKAGE.rglob("*.py"))
BACKEND_PACKAGES = {"jax", "jaxlib", "torch", "torchvision", "tensorflow"}
# KerasCV's layers run in tf.data whatever the backend: TensorFlow is what it is made of, no backend there.
NAMED_ELSEWHERE = {"data/keras_cv_batches.py": {"tensorflow"}}

MODELS = {"backbone", "nepa", "objectives", "classifier", "segmenter", "rollout"}
USERS = {"training", "data", "performance", "evaluation", "visualization", "interop"}
# Part -> parts that it does not reach by any way.
STRANGERS = {
    "backends": {"presets", "layers", "distribution", "task"} | MODELS | USERS,
    "presets": {"layers", "backends"} | MODELS | USERS,
    "layers": {"presets", "task"} | MODELS | USERS,
    **dict.fromkeys(MODELS, USERS),
    "data": {"layers", "training"} | MODELS,
    "training": {"data", "performance", "evaluation", "visualization", "interop"},
    "performance": {"training", "data", "evaluation", "visualization", "interop"},
    "interop": {"evaluation", "visualization"},
}


def module_name(path: Path) -> str:
    """nepa_keras/data/sources/__init__.py -> nepa_keras.data.sources."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in FILES}


def imports(path: Path) -> set[str]:
    """Full names of all modules a file imports, at any depth of nesting."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & MODULES
            if names - MODULES:
                found.add(node.module)
    return found


def import_graph() -> dict[str, set[str]]:
    """Module -> modules of this package that it imports, and other packages whose __init__ that runs."""
    graph = {}
    for path in FILES:
        here = module_name(path)
        graph[here] = found = imports(path) & MODULES
        for name in list(found):
            packages = {name[:i] for i, letter in enumerate(name) if letter == "."}
            found |= {p for p in packages if not f"{here}.".startswith(f"{p}.")}
    return graph


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """Everything on a way from a node of a graph."""
    found, left = set(), {start}
    while left:
        node = left.pop()
        left |= graph.get(node, set()) - found
        found |= graph.get(node, set())
    return found


@pytest.mark.once
def test_imports_go_one_way():
    """Down: no circle of modules or parts, and no part reaches those above it."""
    graph = import_graph()
    TopologicalSorter(graph).prepare()  # raises an error that names a circle
    parts = {}
    for module, imported in graph.items():
        if module != "nepa_keras":  # imports all of them
            here = module.split(".")[1]
            others = {name.split(".")[1] for name in imported if name != "nepa_keras"} - {here}
            parts.setdefault(here, set()).update(others)
    TopologicalSorter(parts).prepare()
    assert set(STRANGERS) <= set(parts)
    for here, strangers in STRANGERS.items():
        assert not reached(parts, here) & strangers, here


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
        tree = ast.parse((PACKAGE / "backends" / backend / "__init__.py").read_text())
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
    """A handler that catches every exception raises it again, under a better name."""
    for path in FILES:
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                if caught in ("everything", "Exception", "BaseException"):
                    assert isinstance(node.body[-1], ast.Raise), f"{path}:{node.lineno}"
        assert not re.search(r"\b(TODO|FIXME|XXX)\b", text), path


def test_import_is_light():
    """The import loads no other backend, and nothing for pictures or probes."""
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


def public_callables() -> dict:
    """Name -> each exported function, and each method and constructor that this package gives a class."""
    found = {}
    for module in public_api.MODULES:
        if module == "nepa_keras.backends":  # described once, in its docstring
            continue
        module = importlib.import_module(module)
        for value in (getattr(module, name) for name in module.__all__):
            full = getattr(value, "__qualname__", "")
            if inspect.isfunction(value):
                found[full] = value
            elif inspect.isclass(value):
                names = [n for n in dir(value) if not n.startswith("_")]
                for name in [*names, "__init__", "__call__", "__getitem__", "__iter__"]:
                    member = inspect.getattr_static(value, name, None)
                    member = getattr(member, "fget", getattr(member, "__func__", member))
                    owner = getattr(member, "__module__", None) or ""
                    ours = owner.startswith("nepa_keras.") and ".backends" not in owner
                    if inspect.isfunction(member) and ours:
                        found[f"{full}.{name}"] = member
    return found


@pytest.mark.once
def test_each_public_argument_and_result_has_a_type():
    without, members = [], public_callables()
    assert {"distribute", "AdamW.__init__", "PatchBank.norm", "ArraySource.read"} <= set(members)
    for full, member in members.items():
        signature = inspect.signature(member)
        given = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
        without += [
            f"{full}({p.name})"
            for p in given
            if p.annotation is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        if signature.return_annotation is signature.empty and not full.endswith("__init__"):
            without.append(f"{full} -> ?")
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
