"""Checkpoints from the Hugging Face hub."""

from pathlib import Path

import pytest

from tests.helpers import golden_files
from tests.helpers.hub_server import Repository, hub_server
from tests.helpers.scripts import run_python

pytestmark = pytest.mark.once
REPOSITORY = "owner/nepa-small"


@pytest.fixture
def hub():
    folder = golden_files.GOLDEN / "classify"
    files = {
        "config.json": (folder / "config.json").read_bytes(),
        "model.safetensors": (folder / "weights.safetensors").read_bytes(),
        "training_args.bin": b"never asked for",
    }
    with hub_server({REPOSITORY: Repository(files)}) as server:
        yield server


@pytest.fixture
def environment(hub, tmp_path):
    return {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf")}


LOAD = """
import nepa_keras
model = nepa_keras.NepaImageClassifier.from_preset({handle!r})
print(model.count_params(), model.class_names[3])
"""


def test_a_checkpoint_is_fetched_once_and_then_found_offline(hub, environment):
    """The revision of a branch, and the default branch where none is named."""
    code = "".join(LOAD.format(handle=f"hf://{REPOSITORY}{branch}") for branch in ("@v1", ""))
    result = run_python("-c", code, **environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("LABEL_3\n") == 2
    assert any(p.endswith("/v1") for p in hub.asked)
    assert any(p.endswith("model.safetensors") for p in hub.asked)
    assert not any(p.endswith("training_args.bin") for p in hub.asked)
    offline = run_python("-c", code, **environment, HF_HUB_OFFLINE="1")
    assert offline.returncode == 0 and offline.stdout == result.stdout, offline.stderr


def test_failed_downloads_are_explained(environment):
    cases = [
        ("hf://owner/nothing", environment),
        (f"hf://{REPOSITORY}", {**environment, "HF_HUB_OFFLINE": "1"}),
        (f"hf://{REPOSITORY}", {**environment, "HF_ENDPOINT": "http://127.0.0.1:9"}),
    ]
    for handle, variables in cases:
        result = run_python("-c", LOAD.format(handle=handle), **variables)
        assert result.returncode != 0
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith(f"OSError: {handle} cannot be fetched"), last
        assert last.endswith("or pass a local folder.")
    missing = "import sys; sys.modules['huggingface_hub'] = None\n"
    result = run_python("-c", missing + LOAD.format(handle="hf://owner/name"), **environment)
    assert "ImportError: Fetching hf://owner/name needs huggingface_hub" in result.stderr
    assert not Path(environment["HF_HOME"]).exists() or not list(
        Path(environment["HF_HOME"]).rglob("*.safetensors")
    )
