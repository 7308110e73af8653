"""Print figures of the size and structure of the code, for comparisons between versions.

    KERAS_BACKEND=torch python benchmarks/code_size.py [FOLDER]

The figures are lines and files of library, scripts and tests; import cycles; names in the `__all__` of
packages; and the files of the library (other than layers) that a training step calls, with the number of
calls from one file to another. FOLDER is a checkout, by default this one.
"""

import ast
import os
import sys
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path


def modules(root: Path) -> dict[str, Path]:
    """Files of the library's modules by dotted name."""
    found = {}
    for path in sorted((root / "nepa_keras").rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def imported(path: Path, known) -> set[str]:
    """Modules of the library that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & set(known)
            names |= inner or {node.module}
    return names & set(known)


def circles(root: Path) -> int:
    """Number of import cycles: edges to remove one by one until no cycle is left."""
    known = modules(root)
    graph = {name: imported(path, known) for name, path in known.items()}
    count = 0
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            first, second = error.args[1][:2]  # each module is imported by the next
            graph[second].discard(first)
            count += 1
        else:
            return count


def public_names(root: Path) -> int:
    """Number of names in the `__all__` of the library's packages, without `backends`."""
    count = 0
    for path in (root / "nepa_keras").rglob("__init__.py"):
        if "backends" in path.parts:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                count += len(ast.literal_eval(node.value))
    return count


def visits_of_a_step(root: Path) -> list[str]:
    """Files of the library (without layers) in the order in which a second training step enters them."""
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
    print(f"import cycles: {circles(root)}")
    print(f"public names: {public_names(root)}")
    visits = visits_of_a_step(root)
    counts = Counter(pairwise(visits))
    print(
        f"a training step calls {len(set(visits))} files, with {counts.total()} calls between files:"
    )
    print("  " + " ".join(dict.fromkeys(visits)))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main()
