"""Checkpoints of a run as models, and which weights of a run are taken."""

import json
import shutil

import numpy as np
import pytest

import nepa_keras
from nepa_keras import interop, training
from nepa_keras.presets.folder import CONFIG
from nepa_keras.training import Checkpoints, find_weights
from nepa_keras.training.described_model import describe_model
from nepa_keras.training.model_state import model_state
from tests.helpers import tiny
from tests.helpers.short_run import batches

STEPS = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of three steps with averages, whose weights were exported at its end."""
    folder = tmp_path_factory.mktemp("run")
    model = tiny.compiled_pretrainer()
    preprocessor = interop.preprocessor_config_of(model)
    training.fit_steps(model, batches, STEPS, 4, folder, preprocessor=preprocessor)
    interop.export_huggingface(model, folder / "trained")
    interop.export_huggingface(model, folder / "ema", ema=True)
    return folder


@pytest.fixture
def unfinished(run, tmp_path):
    """The same run before its weights were exported."""
    shutil.copytree(run / "checkpoints", tmp_path / "run" / "checkpoints")
    return tmp_path / "run"


def last_of(run):
    return Checkpoints(run / "checkpoints").path(STEPS)


def assert_same_tensors(found, expected):
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("kind", ["trained", "ema"])
def test_a_checkpoint_loads_as_the_weights_that_its_run_exports(run, kind):
    given = find_weights(last_of(run), kind)
    assert given.description.endswith("weights of step 3")
    for model_class in (nepa_keras.NepaPretrainer, nepa_keras.NepaBackbone):
        models = (
            model_class.from_preset(given.folder, ema=given.ema),
            model_class.from_preset(run / kind),
        )
        assert_same_tensors(*map(interop.official_tensors, models))
    assert interop.model_class(given.folder) is nepa_keras.NepaPretrainer
    ours, theirs = map(nepa_keras.NepaImageConverter.from_preset, (given.folder, run / kind))
    assert ours.official_config() == theirs.official_config()


def test_adapters_and_frozen_weights_come_out_of_a_checkpoint(tmp_path):
    """Averages of what was trained beside the rest as it is, the adapters in their kernels."""
    source = nepa_keras.NepaImageClassifier(tiny.backbone(qk_norm_scale=True), 3)
    source.save_to_preset(tmp_path / "source")
    model = nepa_keras.NepaImageClassifier.from_preset(tmp_path / "source", lora_rank=2)
    optimizer = training.adamw(1e-2, ema_decay=0.5)
    tiny.compile_model(model, optimizer)
    optimizer.build(model.trainable_variables)
    optimizer.iterations.assign(2)  # as if it had made steps, which need no time here
    generator = np.random.default_rng(0)
    for variable in (*model.trainable_variables, *optimizer.averages):
        variable.assign(generator.standard_normal(variable.shape))
    state = model_state(model)
    folder = Checkpoints(tmp_path).save(2, state, {}, describe_model(model, state))
    found = nepa_keras.NepaImageClassifier.from_preset(folder)
    assert_same_tensors(interop.official_tensors(found), interop.official_tensors(model))
    averaged = interop.open_checkpoint(folder, ema=True)
    with training.ema_weights(model):
        assert_same_tensors(averaged, interop.official_tensors(model))


def test_the_weights_of_a_run_are_those_it_recommends(run, unfinished, tmp_path):
    assert find_weights(run)[:2] == (run / "ema", False)
    assert find_weights(run, "trained")[:2] == (run / "trained", False)
    assert find_weights(run).description == "averaged weights of step 3"
    assert find_weights(run / "checkpoints", "trained")[:2] == (last_of(run), False)
    assert find_weights(run / "ema") is None and find_weights(tmp_path / "nothing") is None
    last = last_of(unfinished)
    assert find_weights(unfinished)[:2] == (last, True)
    assert find_weights(unfinished, "trained")[:2] == (last, False)
    # A best validation on the way is not what the run has come to.
    shutil.copytree(run / "trained", unfinished / "best")
    assert find_weights(unfinished).folder == last
    shutil.copytree(run / "trained", unfinished / "trained")
    assert find_weights(unfinished).folder == unfinished / "best"
    assert find_weights(unfinished, "ema")[:2] == (last, True)


def test_damaged_checkpoints_are_named_and_passed_over(unfinished):
    last = last_of(unfinished)
    path = last / "state.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = find_weights(unfinished)
    assert found.folder.name == "step-00000002" and str(last) in found.damaged[0]
    with pytest.raises(ValueError, match=r"step-00000003 is damaged \(state.*another checkpoint"):
        nepa_keras.NepaBackbone.from_preset(last, ema=True)
    shutil.rmtree(unfinished / "checkpoints" / "step-00000002")
    with pytest.raises(ValueError, match=r"has no usable weights; resume.* is damaged"):
        find_weights(unfinished)


def test_a_checkpoint_that_does_not_say_its_model_or_has_no_averages(unfinished, tmp_path):
    last = last_of(unfinished)
    config = json.loads((last / CONFIG).read_text())
    (last / CONFIG).unlink()
    for read in (find_weights, nepa_keras.NepaBackbone.from_preset, interop.open_checkpoint):
        with pytest.raises(
            ValueError, match=r"has no config.json: this checkpoint .* earlier version.*ema/"
        ):
            read(last)
    config["training_state"]["weights"] = ["model/00000"]
    (last / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ValueError, match="does not give the places"):
        find_weights(last)

    model = tiny.compiled_pretrainer()
    model.optimizer.build(model.trainable_variables)
    state = model_state(model)
    first = Checkpoints(tmp_path).save(0, state, {}, describe_model(model, state))
    assert find_weights(first)[1:3] == (False, "trained weights of step 0")
    with pytest.raises(ValueError, match="no averaged weights: the optimizer keeps none"):
        find_weights(first, "ema")
    with pytest.raises(ValueError, match="no averaged weights; load it without ema=True"):
        nepa_keras.NepaBackbone.from_preset(first, ema=True)
