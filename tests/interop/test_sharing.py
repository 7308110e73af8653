"""Weights for others: the folder with its model card, and the upload to the hub's stand-in."""

import numpy as np
import pytest
from safetensors.numpy import load

import nepa_keras
from nepa_keras import interop, training
from nepa_keras.training.run_dir import RunFlags
from tests.helpers import tiny
from tests.helpers.hub_server import TOKEN, Repository, hub_server
from tests.helpers.scripts import refusal, run_here
from tests.helpers.tolerances import assert_same_tensors


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub's stand-in, which this process takes for the hub, and a token that is kept nowhere but here."""
    from huggingface_hub import constants

    with hub_server({"me/public": Repository()}) as server:
        files = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # large files go as Git LFS
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def run(tmp_path):
    """The folder of a run that ended, as finetune.py leaves it."""
    run = training.RunDir(tmp_path / "somebody" / "tuned")
    model = nepa_keras.NepaImageClassifier(tiny.backbone(image_shape=(8, 8, 3)), 2)
    interop.replace_huggingface(model, run.best)
    lines = (
        f"--model={tmp_path}/somebody/run/ema",
        f"--data=folder:{tmp_path}/somebody/cats",
        "--freeze=patch_embedding/kernel,patch_embedding/bias",
        "--steps=20",
    )
    command = f"KERAS_BACKEND=jax python {tmp_path}/finetune.py --flagfile={run.flags}"
    run.write_flags(RunFlags(command, "keras 3.15.1, jax 0.10.2", lines))
    run.log.write_text(
        "epoch,loss,step,val_accuracy,learning_rate\n1,0.7,10,NA,1\n2,0.5,20,0.875,1\n"
    )
    run.write_results({"Validation results": [["weights", "top-1"], ["best", "87.50"]]})
    run.curves.write_bytes(b"a picture")
    return run


@pytest.mark.once
def test_a_run_is_uploaded_with_its_card_and_loads_from_there(hub, run, tmp_path):
    given = [f"--model={run}", f"--output={tmp_path / 'out'}", "--license=cc-by-4.0"]
    result = run_here("share.py", *given, "--push=hf://me/tuned", "--private")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(f"uploaded: {hub.address}/me/tuned\n")
    held = hub.repositories["me/tuned"]
    assert held.private
    names = {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert set(held.files) == names | {"README.md", "curves.png"}
    assert hub.asked.count("POST /api/models/me/tuned/commit/main") == 1  # all of it or nothing

    card = held.files["README.md"].decode()
    head = card.split("---\n")[1].splitlines()
    assert {"license: cc-by-4.0", "pipeline_tag: image-classification"} <= set(head)
    assert str(tmp_path) not in card and "somebody" not in card
    for words in (
        "# tuned\n",
        "--data=folder:cats\n",
        "--model=ema\n",
        "--freeze=patch_embedding/kernel,patch_embedding/bias\n",
        "by `nepa-keras finetune` with keras 3.15.1, jax 0.10.2",
        "| best | 87.50 |",
        "At the last step (20):",
        "| val_accuracy | 0.875 |",
        "](curves.png)",
        'NepaImageClassifier.from_preset("hf://me/tuned")',
        "The weights: cc-by-4.0.",
    ):
        assert words in card, words

    model = nepa_keras.NepaImageClassifier.from_preset("hf://me/tuned")
    expected = load((run.best / "model.safetensors").read_bytes())
    assert_same_tensors(interop.official_tensors(model), expected, "exact")


@pytest.mark.once
def test_a_card_that_a_person_wrote_in_stays(run, tmp_path):
    given = ("share.py", f"--model={run}", f"--output={tmp_path / 'out'}")
    assert "no --license is given" in run_here(*given).stdout
    card = tmp_path / "out" / "README.md"
    assert "ask the owner" in card.read_text()
    card.write_text("Of my cats.\n")
    assert "existed and is kept" in run_here(*given).stdout
    assert card.read_text() == "Of my cats.\n"


REFUSED = {
    "--push=me/tuned": "'me/tuned' is not of the form hf://owner/name",
    "--push=hf://me/tuned@v2": "has a revision, but uploads go to the main one: use hf://me/tuned.",
    "--private": "--private applies to an upload; give --push=hf://OWNER/NAME too.",
    "--license=My own": "--license=My own is no licence identifier of the hub, such as apache-2.0",
    "--push=hf://me/public --private": "hf://me/public already exists and is public, so nothing was",
}


@pytest.mark.once
@pytest.mark.parametrize("flags", REFUSED)
def test_what_cannot_be_shared_is_one_sentence(flags, hub, run, tmp_path):
    given = [flags] if "=My" in flags else flags.split()
    sentence = refusal("share.py", f"--model={run}", f"--output={tmp_path / 'out'}", *given)
    assert sentence.startswith("share.py: ") and REFUSED[flags] in sentence
    assert sentence.count("\n") == 1
    assert hub.repositories.keys() == {"me/public"} and not hub.repositories["me/public"].files


@pytest.mark.once
def test_without_a_token_or_the_right_to_write_nothing_is_uploaded(hub, monkeypatch, run, tmp_path):
    given = [f"--model={run}", f"--output={tmp_path / 'out'}", "--push=hf://them/tuned"]
    hub.may_write = False
    sentence = refusal("share.py", *given)
    assert "hf://them/tuned cannot be written to (" in sentence and "403" in sentence
    monkeypatch.delenv("HF_TOKEN")
    asked = len(hub.asked)
    sentence = refusal("share.py", *given)
    assert "needs a hub token with write permission; run 'hf auth login'" in sentence
    assert len(hub.asked) == asked


@pytest.mark.only_on("torch")
def test_models_without_an_official_layout_are_shared_in_ours(tmp_path):
    backbone = tiny.backbone(position_embedding="learned")
    interop.write_to_share(backbone, tmp_path)
    again = nepa_keras.NepaBackbone.from_preset(tmp_path)
    expected = interop.official_tensors(backbone)
    assert_same_tensors(interop.official_tensors(again), expected, "exact")
    card = (tmp_path / "README.md").read_text()
    assert f'NepaBackbone.from_preset("{tmp_path}")' in card and "## Data" not in card
    assert np.shape(nepa_keras.NepaImageConverter.from_preset(tmp_path).image_size) == (2,)
