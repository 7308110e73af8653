"""The notebooks: what they keep, and in the second tier that they run from top to bottom."""

import ast
import json

import numpy as np
import pytest
from PIL import Image

import nepa_keras
from tests.helpers import notebooks, tiny

FILES = sorted(notebooks.NOTEBOOKS.glob("*.ipynb"))
MOST_BYTES = 300 * 1024


@pytest.mark.once
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_notebook_is_valid_small_and_executed(path):
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (4, "python3")
    assert path.stat().st_size < MOST_BYTES
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for cell in code:
        ast.parse("".join(cell["source"]))
        kinds = {output["output_type"] for output in cell["outputs"]}
        assert kinds <= {"stream", "display_data", "execute_result"}, "no errors are kept"
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kept = [data for cell in code for out in cell["outputs"] for data in out.get("data", {})]
    assert "image/jpeg" in kept and "text/markdown" in kept


def outputs(notebook) -> str:
    """All that the cells printed and displayed as text."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            found.append(output.get("text") or output.get("data", {}).get("text/markdown", ""))
    return "\n".join(found)


@pytest.mark.full
@pytest.mark.once
def test_released_weights_are_used_from_a_local_checkpoint(tmp_path):
    """A checkpoint in the authors' layout stands in for the hub's."""
    classifier = nepa_keras.NepaImageClassifier(
        tiny.backbone(image_shape=(8, 8, 3)), 3, class_names=["cat", "dog", "hen"]
    )
    nepa_keras.interop.export_huggingface(classifier, tmp_path / "checkpoint")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (2, 30, 40, 3), "uint8")):
        Image.fromarray(pixels).save(pictures / f"{i}.png")
    executed = notebooks.execute(
        "released_weights",
        tmp_path,
        NEPA_KERAS_NOTEBOOK_MODEL=str(tmp_path / "checkpoint"),
        NEPA_KERAS_NOTEBOOK_PICTURES=str(pictures),
        TMPDIR=str(tmp_path),
    )
    found = outputs(executed)
    assert "not the released weights" in found and "3 classes" in found and "| 0.png |" in found
    (report,) = tmp_path.glob("nepa_keras-*/report.html")
    assert report.stat().st_size > 10_000


@pytest.mark.full
@pytest.mark.once
def test_pretraining_probing_and_fine_tuning_in_a_notebook(tmp_path):
    executed = notebooks.execute(
        "your_own_pictures",
        tmp_path,
        NEPA_KERAS_NOTEBOOK_STEPS="20",
        NEPA_KERAS_NOTEBOOK_EPOCHS="1",
        TMPDIR=str(tmp_path),
    )
    found = outputs(executed)
    assert "10,000 pictures" in found and "| pretrained, block 1 |" in found
    assert "500 training and 1000 test pictures of 10 classes" in found
