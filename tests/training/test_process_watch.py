"""Processes of a run notice within a bounded time that another one is gone."""

import threading

import pytest

from nepa_keras.training.process_watch import ProcessWatch

pytestmark = pytest.mark.once

PATIENCE = 0.6


class Engine(Exception):
    """Error that a collective raises."""


def watch(folder, number, said):
    return ProcessWatch(
        folder, number, 3, lambda error: isinstance(error, Engine), PATIENCE, said.append
    )


def test_nothing_is_said_while_all_live_or_leave_in_good_order(tmp_path):
    said, leave = [], threading.Event()
    with watch(tmp_path / "p", 0, said) as first:
        with watch(tmp_path / "p", 1, said) as second, watch(tmp_path / "p", 2, said) as third:
            for each in (first, second, third):
                each.start()
            leave.wait(2 * PATIENCE)
        leave.wait(2 * PATIENCE)
    assert not said
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize("how", ["killed", "failed", "before its first word"])
def test_a_process_that_is_gone_ends_the_others(tmp_path, how):
    said = []
    (tmp_path / "process-2").write_text("  failed")  # of an earlier run
    with watch(tmp_path, 0, said) as first, watch(tmp_path, 1, []) as second:
        lost = watch(tmp_path, 2, [])
        lost.__enter__()
        for each in (first, second) if how == "before its first word" else (first, second, lost):
            each.start()
        if how == "killed":
            lost._left.set()  # its thread ends with it
        if how == "failed":
            lost.__exit__(ValueError, ValueError("a bad image"), None)
        first._thread.join(4 * PATIENCE)
        assert len(said) == 1
        assert said[0].startswith("Process 2 of 0 to 2 ")
        assert ("by an error" in said[0]) == (how == "failed")
        lost._left.set()


def test_an_error_of_the_engine_is_held_back_for_its_reason(tmp_path):
    said = []
    with pytest.raises(Engine), watch(tmp_path, 0, said) as first:
        for number in (1, 2):
            watch(tmp_path, number, []).__enter__()
        first.start()
        raise Engine
    assert len(said) == 1


def test_an_error_of_its_own_is_raised_at_once_and_told_to_the_others(tmp_path):
    said = []
    with pytest.raises(ValueError, match="a bad image"), watch(tmp_path, 0, said) as first:
        first.start()
        raise ValueError("a bad image")
    assert not said
    assert (tmp_path / "process-0").read_text().strip() == "failed"
