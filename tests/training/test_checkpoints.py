"""Checkpoints: whole or not there, damage found, nothing removed before its successor is complete."""

import os
import signal
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tiny

import nepa_keras
from nepa_keras import training
from nepa_keras.training.checkpoints import Checkpoints, model_state, restore_state

WORDS = ("made", "state", "record", "manifest", "synced", "renamed", "complete", "removed")


def state(step: int) -> dict[str, np.ndarray]:
    return {"weights": np.full(1000, step, "float32"), "seed": np.array([step, 7], "int32")}


def filled(folder, steps=(3, 6), **arguments) -> Checkpoints:
    checkpoints = Checkpoints(folder, **arguments)
    for step in steps:
        checkpoints.save(step, state(step), {"best": step / 10})
    return checkpoints


def assert_newest(checkpoints: Checkpoints, step: int) -> None:
    saved = checkpoints.newest()
    assert saved.step == step and saved.record == {"best": step / 10, "step": step}
    for name, value in state(step).items():
        np.testing.assert_array_equal(saved.state[name], value)
        assert saved.state[name].dtype == value.dtype


def test_the_newest_comes_back_and_old_ones_go(tmp_path):
    assert Checkpoints(tmp_path / "none").newest() is None
    checkpoints = filled(tmp_path, range(1, 11), keep_last=2, keep_every=4)
    assert checkpoints.steps() == [4, 8, 9, 10]
    assert_newest(Checkpoints(tmp_path), 10)
    assert sorted(os.listdir(tmp_path)) == [f"step-{i:08d}" for i in (4, 8, 9, 10)]


@pytest.mark.parametrize("name", ["state.safetensors", "record.json", "manifest.json"])
def test_a_file_cut_anywhere_or_with_a_byte_changed_is_named_and_the_one_before_used(
    name, tmp_path
):
    checkpoints = filled(tmp_path)
    path = tmp_path / "step-00000006" / name
    content = path.read_bytes()
    draw = np.random.default_rng(0)
    for size in {*draw.integers(0, len(content), 32).tolist(), 0, len(content) - 1}:
        path.write_bytes(content[:size])
        assert_newest(checkpoints, 3)
        assert (
            len(checkpoints.damaged) == 1 and "step-00000006 is damaged" in checkpoints.damaged[0]
        )
    for place in draw.integers(0, len(content), 64).tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << int(draw.integers(8))
        path.write_bytes(changed)
        assert_newest(checkpoints, 3)
    path.unlink()
    assert_newest(checkpoints, 3)
    checkpoints.save(6, state(6), {"best": 0.6})  # the damaged one is replaced
    assert_newest(checkpoints, 6)
    assert checkpoints.damaged == []


def test_a_whole_one_of_the_step_stays(tmp_path):
    checkpoints = filled(tmp_path)
    before = os.stat(tmp_path / "step-00000006").st_ino
    checkpoints.save(6, state(6), {"best": 0.6})
    assert os.stat(tmp_path / "step-00000006").st_ino == before


@pytest.mark.once
@pytest.mark.parametrize("word", WORDS)
def test_killed_at_any_boundary_of_a_save_the_newest_whole_one_is_there(word, tmp_path):
    filled(tmp_path)
    code = f"""
        import os, signal, sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_checkpoints import Checkpoints, state
        def end(word):
            if word == {word!r}:
                os.kill(os.getpid(), signal.SIGKILL)
        Checkpoints({str(tmp_path)!r}, keep_last=1, at_boundary=end).save(9, state(9), {{"best": 0.9}})
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment)
    assert result.returncode == -signal.SIGKILL
    complete = word in WORDS[WORDS.index("renamed") :]
    checkpoints = Checkpoints(tmp_path, keep_last=1)
    assert_newest(checkpoints, 9 if complete else 6)
    checkpoints.save(12, state(12), {"best": 1.2})
    assert os.listdir(tmp_path) == ["step-00000012"]


def test_no_room_leaves_what_was_there_and_nothing_else(tmp_path):
    """A limit of the system on the size of a file stands for a full disk: writing fails halfway."""
    import resource

    filled(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(OSError):
            Checkpoints(tmp_path).save(9, state(9), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    assert sorted(os.listdir(tmp_path)) == ["step-00000003", "step-00000006"]
    assert_newest(Checkpoints(tmp_path), 6)


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
