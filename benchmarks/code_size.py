"""Size and shape of the code, of this tree or of another one, for comparisons between versions.

    KERAS_BACKEND=torch python benchmarks/code_size.py [FOLDER]

Lines and files of the library and of the scripts, circles of imports, names in the `__all__`s of packages,
and the files of the library that one training step visits, layers apart, with how often it goes from one to
another. FOLDER is a checkout, by default this one.
"""

import ast
import os
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path


def modules(root: Path) -> dict[str, Path]:
    """Dotted names of the library's modules, and their files."""
    found = {}
    for path in sorted((root / "nepa_keras").rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imported(path: Path, known) -> set[str]:
    """Modules of the library that a file imports, at any depth of nesting."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & set(known)
            names |= inner or {node.module}
    return names & set(known)


def circles(root: Path) -> int:
    """Circles of imports: so many times an edge has to be cut until there is none."""
    known = modules(root)
    graph = {name: imported(path, known) for name, path in known.items()}
    count = 0
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            first, second = error.args[1][:2]  # each is imported by the next
            graph[second].discard(first)
            count += 1
        else:
            return count


def public_names(root: Path) -> int:
    """Names in the `__all__`s of the library's packages, those of `backends` apart."""
    count = 0
    for path in (root / "nepa_keras").rglob("__init__.py"):
        if "backends" in path.parts:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                count += len(ast.literal_eval(node.value))
    return count


def visits_of_a_step(root: Path) -> list[str]:
    """Files of the library, layers apart, in the order in which the second step of `fit` enters them."""
    sys.path.insert(0, str(root))
    import numpy as np

    import nepa_keras

    library = Path(nepa_keras.__file__).parent
    assert library.parent == root, library
    backbone = nepa_keras.NepaBackbone((8, 8, 1), 2, 16, 2, 2, 32)
    model = nepa_keras.NepaPretrainer(backbone)
    model.compile(nepa_keras.training.adamw(1e-3), run_eagerly=True, jit_compile=False)
    images = np.zeros((4, 8, 8, 1), "float32")
    model.train_on_batch(images)
    visits = []

    def look(frame, event, argument):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(library):
            name = str(path.relative_to(library))
            if not name.startswith("layers") and visits[-1:] != [name]:
                visits.append(name)

    sys.setprofile(look)
    model.train_on_batch(images)
    sys.setprofile(None)
    return visits


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve()
    for title, folders in (
        ("library", ["nepa_keras"]),
        ("scripts", ["experiments", "benchmarks"]),
        ("tests", ["tests"]),
    ):
        files = [path for folder in folders for path in (root / folder).rglob("*.py")]
        lines = sum(len(path.read_text().splitlines()) for path in files)
        print(f"{title}: {lines:,} lines in {len(files)} files")
    print(f"circles of imports: {circles(root)}")
    print(f"public names: {public_names(root)}")
    visits = visits_of_a_step(root)
    counts = Counter(pairwise(visits))
    print(
        f"a step visits {len(set(visits))} files, going from one to another {counts.total()} times:"
    )
    print("  " + " ".join(dict.fromkeys(visits)))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main()
