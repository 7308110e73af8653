"""Runs and saves that are killed at random moments and at each boundary; `--kills=200` is the full set."""

import json
from pathlib import Path

import pytest

from tests.helpers.scripts import run_python


def deaths(what: str, folder: Path, kills: int) -> dict:
    result = run_python("-m", "tests.helpers.lives", what, folder, f"--kills={kills}", timeout=None)
    assert result.returncode == 0, result.stderr
    account = json.loads(result.stdout)
    print(what, account)  # with -s these are the figures of docs/reliability.md
    return account


@pytest.mark.once
def test_a_killed_save_keeps_the_complete_checkpoints(tmp_path):
    """Kills at each boundary of the first, second and fourth save, and at 200 random moments."""
    account = deaths("saves", tmp_path, 200)
    assert account["faults"] == []
    assert account["kills"] == 200 + 8 * 3 and account["in_a_save"] > 100


@pytest.mark.first_on("torch")
def test_a_run_that_is_killed_again_and_again_is_the_run_without_a_break(tmp_path, request):
    """State, log and batches bit for bit; no checkpoint that was complete is lost, none damaged."""
    kills = request.config.getoption("--kills")
    account = deaths("runs", tmp_path, kills)
    assert account["faults"] == []
    assert account["kills"] >= kills and account["finished"] > 0
