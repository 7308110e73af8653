"""Checkpoints that are damaged, a disk without room and one that cannot be written to."""

import os
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest

from nepa_keras.training.checkpoints import Checkpoints
from tests.helpers.small_checkpoints import assert_newest, filled, state

pytestmark = pytest.mark.once
FILES = ("state.safetensors", "record.json", "manifest.json")
SIZES, BYTES = 64, 256


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    """Two, of steps 3 and 6."""
    return filled(tmp_path)


def assert_damage_is_named(checkpoints: Checkpoints) -> None:
    assert_newest(checkpoints, 3)
    (sentence,) = checkpoints.damaged
    assert f"{checkpoints.folder / 'step-00000006'} is damaged" in sentence


def places(content: bytes, count: int, draw) -> list[int]:
    """Positions of bytes, the first and the last among them."""
    inner = draw.choice(len(content), min(count, len(content)), replace=False).tolist()
    return list(dict.fromkeys([0, len(content) - 1, *inner]))[: max(count, 2)]


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_to_any_size_is_named_and_the_one_before_used(name, checkpoints):
    path = checkpoints.folder / "step-00000006" / name
    content = path.read_bytes()
    for size in places(content, SIZES, np.random.default_rng(0)):
        path.write_bytes(content[:size])
        assert_damage_is_named(checkpoints)


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_one_byte_changed_is_named_and_the_one_before_used(name, checkpoints):
    path = checkpoints.folder / "step-00000006" / name
    content, draw = path.read_bytes(), np.random.default_rng(0)
    for place in places(content, BYTES, draw):
        changed = bytearray(content)
        changed[place] ^= 1 << int(draw.integers(8))
        path.write_bytes(changed)
        assert_damage_is_named(checkpoints)


@pytest.mark.parametrize("name", FILES)
def test_an_incomplete_checkpoint_is_passed_over_and_can_be_saved_again(name, checkpoints):
    (checkpoints.folder / "step-00000006" / name).unlink()
    assert_damage_is_named(checkpoints)
    checkpoints.save(6, state(6), {"best": 0.6})
    assert_newest(checkpoints, 6)
    assert checkpoints.damaged == []


def assert_nothing_changed(checkpoints: Checkpoints) -> None:
    assert sorted(os.listdir(checkpoints.folder)) == ["step-00000003", "step-00000006"]
    assert_newest(checkpoints, 6)


def test_a_full_disk_leaves_the_earlier_files_alone(checkpoints):
    """A limit of the system on the size of a file stands for a full disk: writing fails halfway."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(OSError, match=r"step-00000009.state.safetensors could not be written"):
            checkpoints.save(9, state(9), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    assert_nothing_changed(checkpoints)


def test_a_folder_that_cannot_be_written_to_is_named():
    """Run as another user where this process is one that no folder's mode stops."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = filled(folder)
        for path in [Path(folder), *Path(folder).glob("*"), *Path(folder).glob("*/*")]:
            path.chmod(0o555)
        user = os.geteuid()
        os.seteuid(user or 65534)
        try:
            with pytest.raises(PermissionError, match="step-00000009"):
                checkpoints.save(9, state(9), {})
            assert_nothing_changed(checkpoints)
        finally:
            os.seteuid(user)
            for path in [Path(folder), *Path(folder).glob("*")]:
                path.chmod(0o755)


def test_a_save_never_removes_the_only_whole_checkpoint(tmp_path):
    """Other folders that have a checkpoint's name are ignored, such as empty ones of later steps."""
    for name in ("step-00008888", "step-00009999"):
        (tmp_path / name).mkdir()
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step), {"best": step / 10})
        assert_newest(checkpoints, step)


def test_what_was_found_damaged_is_set_aside_and_does_not_count(checkpoints):
    (checkpoints.folder / "step-00000006" / "manifest.json").unlink()
    assert_damage_is_named(checkpoints)
    checkpoints.save(5, state(5), {"best": 0.5})
    assert sorted(os.listdir(checkpoints.folder)) == [
        "damaged-step-00000006",
        "step-00000003",
        "step-00000005",
    ]
    assert_newest(checkpoints, 5)
