"""A finished run given again is answered before Keras is imported; only the same command, and whole files."""

import contextlib
import sys

import finished_run
import pytest
import recipe_names

from tests.helpers.scripts import path_of, run

pytestmark = pytest.mark.once


@pytest.fixture
def folder(tmp_path):
    """A run whose last files are there, finished by a command with a flag file."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("report.html", "checkpoint.keras"):
        (folder / name).write_text("whole")
    (tmp_path / "my.flags").write_text("# a comment\n--data=digits\n--steps=3\n")
    return folder


def give(monkeypatch, script, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", [str(path_of(script)), *map(str, arguments)])


def remember(folder) -> None:
    _, given = finished_run.command_line()
    finished_run.remember(folder, [given], [folder / "report.html", folder / "checkpoint.keras"])


def test_the_same_command_is_answered_without_keras(monkeypatch, folder):
    flag_file = f"--flagfile={folder.parent / 'my.flags'}"
    give(monkeypatch, "pretrain.py", f"--run_dir={folder}", flag_file)
    remember(folder)
    for flags in (
        [f"--run_dir={folder}", flag_file],
        ["--data=digits", "--run_dir", folder, "--steps=3", "--keep_last=5"],
    ):
        # Keras would refuse such a backend.
        done = run("pretrain.py", *flags, KERAS_BACKEND="none of them")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{folder} is finished: open {folder / 'report.html'} in")


def test_a_recipe_is_known_again(monkeypatch, folder, capsys):
    command = [f"--run_dir={folder}", "--recipe=pretrain_embedded", "--steps=3"]
    give(monkeypatch, "pretrain.py", *command)
    monkeypatch.setattr(sys, "argv", [sys.argv[0], *recipe_names.expand_recipes(sys.argv[1:])])
    remember(folder)
    give(monkeypatch, "pretrain.py", *command)
    with pytest.raises(SystemExit):
        finished_run.end_if_given_again()
    assert capsys.readouterr().out.startswith(f"{folder} is finished")
    give(monkeypatch, "pretrain.py", *command[:1], "--recipe=none_such")
    finished_run.end_if_given_again()  # goes on, to be refused


def test_any_other_is_looked_at(monkeypatch, folder):
    same = [f"--run_dir={folder}", "--data=digits", "--steps=3"]
    give(monkeypatch, "pretrain.py", *same)
    remember(folder)
    with pytest.raises(SystemExit):
        finished_run.end_if_given_again()
    for script, *arguments in (
        ("pretrain.py", *same, "--steps=4"),
        ("pretrain.py", *same, "--help"),
        ("pretrain.py", *same, "--flagfile=missing.flags"),
        ("pretrain.py", *same[1:]),
        ("pretrain.py", f"--run_dir={folder.parent}", *same[1:]),
        ("finetune.py", *same),
    ):
        give(monkeypatch, script, *arguments)
        finished_run.end_if_given_again()  # goes on
    _, given = finished_run.command_line()
    for backend, ended in (("jax", True), ("torch", False)):
        monkeypatch.setenv("KERAS_BACKEND", backend)
        give(monkeypatch, "study.py", *same)
        finished_run.remember(folder, [given], [folder / "report.html"], "jax")
        with pytest.raises(SystemExit) if ended else contextlib.nullcontext():
            finished_run.end_if_given_again()
    give(monkeypatch, "pretrain.py", *same)
    remember(folder)
    (folder / "checkpoint.keras").write_text("other")
    finished_run.end_if_given_again()
    (folder / "finished.json").write_text("no JSON")
    finished_run.end_if_given_again()
