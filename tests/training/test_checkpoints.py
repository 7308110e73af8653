"""Checkpoints: which stay, and a model that goes on from one; for damage see tests/faults."""

import os

import keras
import numpy as np
import pytest

import nepa_keras
from nepa_keras import training
from nepa_keras.training.checkpoints import Checkpoints
from nepa_keras.training.model_state import model_state, restore_state
from tests.helpers import tiny
from tests.helpers.small_checkpoints import assert_newest, filled, state


@pytest.mark.once
def test_the_newest_comes_back_and_old_ones_go(tmp_path):
    assert Checkpoints(tmp_path / "none").newest() is None
    checkpoints = filled(tmp_path, range(1, 11), keep_last=2, keep_every=4)
    assert checkpoints.steps() == [4, 8, 9, 10]
    assert_newest(Checkpoints(tmp_path), 10)
    assert sorted(os.listdir(tmp_path)) == [f"step-{i:08d}" for i in (4, 8, 9, 10)]


@pytest.mark.once
def test_saving_a_step_again_keeps_the_whole_checkpoint(tmp_path):
    checkpoints = filled(tmp_path)
    before = os.stat(tmp_path / "step-00000006").st_ino
    checkpoints.save(6, state(6), {"best": 0.6})
    assert os.stat(tmp_path / "step-00000006").st_ino == before


def classifier(seed: int):
    keras.utils.set_random_seed(seed)
    model = nepa_keras.NepaImageClassifier(tiny.backbone(drop_path_rate=0.3), 3)
    tiny.compile_model(
        model,
        training.adamw(1e-2, ema_decay=0.5),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def test_a_model_goes_on_exactly_where_it_was(tmp_path):
    """Weights, averages, moments and the seeds of drop path: three steps, or one, saved, and two."""
    images, labels = tiny.images(12), np.arange(12) % 3
    batches = [(images[i : i + 4], labels[i : i + 4]) for i in (0, 4, 8)]
    straight = classifier(0)
    for batch in batches:
        straight.train_on_batch(*batch)
    first = classifier(0)
    first.train_on_batch(*batches[0])
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, model_state(first), {})
    resumed = classifier(1)
    restore_state(resumed, checkpoints.newest().state)
    for batch in batches[1:]:
        resumed.train_on_batch(*batch)
    expected, found = model_state(straight), model_state(resumed)
    assert sorted(expected) == sorted(found)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_checkpoint_of_another_model_changes_nothing():
    model, other = classifier(0), tiny.pretrainer()
    tiny.compile_model(other, training.adamw(1e-2))
    for m in (model, other):
        m.optimizer.build(m.trainable_variables)
    before = model_state(model)
    narrow = {**before, "model/00001": before["model/00001"][..., :3]}
    for wrong in (model_state(other), narrow):
        with pytest.raises(ValueError, match="of another model"):
            restore_state(model, wrong)
    for name, value in model_state(model).items():
        np.testing.assert_array_equal(before[name], value)
