"""The markers of the suite: what runs once does not depend on the backend, and all of that runs once.

A test depends on the backend if it leads to Keras, through fixtures, helpers and the library, definition by
definition: `data.decode_image` does not, though importing `nepa_keras.data` imports Keras.
"""

import ast
import functools
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests import conftest
from tests.helpers import ROOT

pytestmark = pytest.mark.once

TESTS = ROOT / "tests"
FILES = sorted(TESTS.rglob("test_*.py"))
OURS = ("nepa_keras", "tests", "photographs", "plan", "speech", "study")
FOLDERS_OF_SCRIPTS = re.compile(
    r"^(benchmarks|examples|experiments)\."
)  # as pyproject.toml has them
KERAS = ("keras", "nepa_keras.backends")
PROCESSES = ("tests.helpers.scripts", "subprocess")  # each may choose another backend
# Parts of Keras that read files and nothing else.
WITHOUT_BACKEND = ("keras.datasets",)


class Source:
    """A module of this project as text: its definitions, and what their names stand for."""

    def __init__(self, path: Path):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        self.name = FOLDERS_OF_SCRIPTS.sub("", name)
        self.definitions, self.imports, self._used = {}, {}, {}
        tree = ast.parse(path.read_text())
        for node in tree.body:
            names = [node.name] if hasattr(node, "name") else _assigned(node)
            self.definitions.update(dict.fromkeys(names, node))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    whole = alias.name if alias.asname else alias.name.split(".")[0]
                    self.imports[alias.asname or whole] = whole
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    self.imports[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def used_by(self, definition: str) -> set[str]:
        """Full names of what a definition uses, such as "numpy.pad" and "nepa_keras.data.load"."""
        if definition in self._used:
            return self._used[definition]
        node, used = self.definitions.get(definition), set()
        for part in ast.walk(node) if node else ():
            if isinstance(part, ast.Name | ast.Attribute):
                first, _, rest = ast.unparse(part).partition(".")
                if first in self.imports:
                    used.add(".".join(filter(None, (self.imports[first], rest))))
                elif first in self.definitions:
                    used.add(f"{self.name}.{first}")
            elif isinstance(part, ast.arg) and part.arg in self.definitions:  # a fixture
                used.add(f"{self.name}.{part.arg}")
        self._used[definition] = used
        return used


def _assigned(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [
        n.id for target in targets if target for n in ast.walk(target) if isinstance(n, ast.Name)
    ]


@functools.cache
def source(path: Path) -> Source:
    return Source(path)


@functools.cache
def place(name: str) -> tuple[str, str] | None:
    """(module, definition) of a full name of ours; None where it names a package or no more than a module."""
    parts = name.split(".")
    value = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], 1):
        if isinstance(value, ModuleType) and not hasattr(value, part):
            try:
                importlib.import_module(".".join(parts[: i + 1]))
            except ModuleNotFoundError:
                return None
        owner, value = value, getattr(value, part)
        if not isinstance(value, ModuleType):
            if getattr(value, "__module__", None) and hasattr(value, "__qualname__"):
                return value.__module__, value.__qualname__.split(".")[0]
            return owner.__name__, part  # a constant: where it was found
    return None


@functools.cache
def everything_used(path: Path, definition: str) -> frozenset[str]:
    """All that a definition leads to, within this project and at its borders."""
    found, waiting = set(), [(path, definition)]
    while waiting:
        at, name = waiting.pop()
        for used in source(at).used_by(name) - found:
            found.add(used)
            if used.startswith(PROCESSES) or used.split(".")[0] not in OURS:
                continue
            if (target := place(used)) is not None:
                found.add(".".join(target))
                if target[0].split(".")[0] in OURS:
                    file = inspect.getsourcefile(importlib.import_module(target[0]))
                    waiting.append((Path(file), target[1]))
    return frozenset(found)


def uses(path: Path, definition: str, names: tuple[str, ...]) -> bool:
    return any(
        used == name or used.startswith(f"{name}.")
        for used in everything_used(path, definition)
        if not used.startswith(WITHOUT_BACKEND)
        for name in names
    )


def marked_once(path: Path, test: str) -> bool:
    definitions = source(path).definitions
    marks = [*definitions[test].decorator_list, definitions.get("pytestmark")]
    return any("mark.once" in ast.unparse(mark) for mark in marks if mark is not None)


def names_of_tests(path: Path) -> list[str]:
    return [name for name in source(path).definitions if name.startswith("test_")]


# Files whose tests use Keras and still run once, and why that proves enough.
ENOUGH_ON_ONE_BACKEND = {
    "benchmarks/test_plan.py": "arithmetic over the sizes of a model",
    "data/test_keras_cv_batches.py": "operations of TensorFlow, whatever the backend",
    "distribution/test_many_devices.py": "the errors of flags, which no backend has seen yet",
    "interop/test_hostile.py": "files that are refused before a backend sees them",
    "interop/test_presets.py": "names and shapes of the released models, the largest of all",
    "performance/test_roofline.py": "arithmetic over the sizes of a model",
    "visualization/report/test_report_in_browser.py": "a page; what it shows is computed in NumPy",
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_once_marks_exactly_the_tests_without_a_backend(path):
    excused = str(path.relative_to(TESTS)) in ENOUGH_ON_ONE_BACKEND
    without_need, not_marked = [], []
    for test in names_of_tests(path):
        if uses(path, test, PROCESSES):
            continue  # it may choose its backends itself
        of_keras, once = uses(path, test, KERAS), marked_once(path, test)
        if once and of_keras and not excused:
            without_need.append(test)
        elif not once and not of_keras:
            not_marked.append(test)
    assert without_need == [], "marked `once`, but they use Keras"
    assert not_marked == [], "to be marked `once`: they do not use Keras"


def test_no_file_is_excused_without_need():
    for name in ENOUGH_ON_ONE_BACKEND:
        tests = names_of_tests(TESTS / name)
        assert any(marked_once(TESTS / name, t) and uses(TESTS / name, t, KERAS) for t in tests), (
            name
        )


def test_longest_files_exist():
    assert [name for name in conftest.LONGEST_FIRST if not (TESTS / name).is_file()] == []


def test_each_test_of_the_second_tier_is_accounted_for():
    """docs/testing.md names it and says why nothing is lost."""
    told = (ROOT / "docs/testing.md").read_text()
    moved = {
        test
        for path in FILES
        for test in names_of_tests(path)
        for decorator in source(path).definitions[test].decorator_list
        if any(mark in ast.unparse(decorator) for mark in ("mark.full", "mark.first_on"))
    }
    assert moved and sorted(name for name in moved if f"`{name}`" not in told) == []
