"""Execution of the notebooks, in a kernel of this environment with this checkout.

    python -m tests.helpers.notebooks released_weights NEPA_KERAS_NOTEBOOK_MODEL=FOLDER …

renews the outputs that a notebook keeps; the words after its name are variables of the environment.
"""

import re
import sys
from pathlib import Path

from tests.helpers import ROOT, scripts

NOTEBOOKS = ROOT / "notebooks"
SECONDS = 1800  # longest run of one cell
_PROGRESS = re.compile(r"^step .* left$|/tmp/", re.M)


def execute(name: str, folder: Path, **variables: str):
    """Run a notebook from top to bottom and return it with its outputs.

    Args:
        name: of a file in notebooks/, without its ending.
        folder: the working directory of the kernel.
        variables: of the environment, such as KERAS_BACKEND.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails; the message has its traceback.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute(env=scripts.environment(**variables))


def without_times(notebook) -> None:
    """Drop what differs from run to run: times, progress lines, stderr, paths, metadata of the machine."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
        for output in cell.get("outputs", ()):
            if "text" in output:
                lines = output["text"].splitlines(keepends=True)
                output["text"] = "".join(line for line in lines if not _PROGRESS.search(line))
    notebook.metadata["language_info"] = {"name": "python"}


def main(name: str, *variables: str) -> None:
    import nbformat

    notebook = execute(name, NOTEBOOKS, **dict(v.split("=", 1) for v in variables))
    without_times(notebook)
    nbformat.write(notebook, NOTEBOOKS / f"{name}.ipynb")


if __name__ == "__main__":
    main(*sys.argv[1:])
