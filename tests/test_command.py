"""The scripts as commands of an installation: `nepa-keras COMMAND`, `python -m nepa_keras COMMAND`."""

import os
import re
import shlex
import shutil
import sys

import pytest

import nepa_keras
import nepa_keras_cli
from tests.helpers import ROOT, public_api
from tests.helpers.scripts import refusal, run_python

pytestmark = pytest.mark.once


def test_help_lists_each_script_and_recipe_and_imports_no_backend(tmp_path):
    asked = {"cwd": tmp_path, "KERAS_BACKEND": "none"}
    result = run_python("-u", "-m", "nepa_keras", "--help", **asked)
    assert result.returncode == 0 and not result.stderr
    listed = [line.split(maxsplit=1) for line in result.stdout.splitlines() if line[:2] == "  "]
    experiments = {path.stem for path in (ROOT / "experiments").glob("*.py")}
    scripts = {name.removesuffix(".py") for name in public_api.SCRIPTS} & experiments
    assert scripts and scripts == {name for name, _ in listed if name in experiments}
    assert [
        "evaluate",
        "Evaluate classifiers on labelled images, write their predictions, or report a pretraining loss.",
    ] in listed
    for recipe in (ROOT / "experiments" / "recipes").glob("*.flags"):
        assert recipe.stem in result.stdout


def test_version_and_help_of_a_command(monkeypatch, capsys):
    nepa_keras_cli.main(["--version"])
    assert capsys.readouterr().out == f"nepa_keras {nepa_keras.__version__}\n"
    ran = []
    monkeypatch.setattr(nepa_keras_cli.runpy, "run_path", lambda path, *_, **__: ran.append(path))
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", list(sys.path))
    nepa_keras_cli.main(["help", "probe"])
    assert ran[0].endswith("probe.py") and sys.argv == [ran[0], "--help"]


def test_without_a_choice_the_only_installed_backend_is_taken(monkeypatch):
    monkeypatch.setattr(nepa_keras_cli.runpy, "run_path", lambda *_, **__: None)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for installed, taken in ((["torch"], "torch"), (["jax", "torch"], None), ([], None)):
        monkeypatch.delenv("KERAS_BACKEND", raising=False)
        monkeypatch.setattr(nepa_keras_cli, "find_spec", lambda name, i=installed: name in i)
        nepa_keras_cli.main(["probe"])
        assert os.environ.get("KERAS_BACKEND") == taken


REFUSED = {
    "": "no command is given; nepa-keras --help lists the commands.",
    "pretrian --steps=1": "there is no command 'pretrian', the nearest is pretrain;",
    "inspectdata": "there is no command 'inspectdata', the nearest is inspect_data;",
    "command_line": "there is no command 'command_line'",
    "--steps=1 pretrain": "--steps=1 is a flag; the first argument must be a command.",
    "probe --backend=pytorch": "--backend=pytorch is none of jax, tensorflow, torch; the nearest is torch.",
    "--backend tf probe": "--backend=tf is none of jax, tensorflow, torch; the nearest is tensorflow.",
}


@pytest.mark.parametrize("line", REFUSED)
def test_a_slip_is_one_sentence(line):
    with pytest.raises(SystemExit) as end:
        nepa_keras_cli.main(shlex.split(line))
    assert str(end.value.code).startswith(f"nepa-keras: {REFUSED[line]}")


def test_a_command_is_the_script_with_the_backend_and_recipe_of_its_flags(tmp_path):
    """The sentence and the status are the script's, and what fails is the data of the recipe."""
    flags = ["--recipe", "pretrain_fashion_mnist", "--data_dir=none_here"]
    result = run_python(
        *("-m", "nepa_keras", "pretrain", "--backend=jax", *flags),
        cwd=tmp_path,
        KERAS_BACKEND="none",
    )
    assert result.returncode == 1, result.stderr
    assert re.match("pretrain.py: .*none_here", result.stderr), result.stderr
    assert result.stderr.count("\n") == 1


def test_an_unknown_recipe_is_refused_with_the_nearest():
    sentence = refusal("finetune.py", "--recipe=finetune_embeded")
    assert sentence.startswith("finetune.py: --recipe=finetune_embeded is none of those in ")
    assert sentence.endswith("the nearest is finetune_embedded.\n")


@pytest.mark.parametrize("on_path", [True, False])
def test_commands_to_paste_are_those_of_the_installation(on_path, monkeypatch):
    import command_line

    monkeypatch.setattr(sys.modules["__main__"], "BY_COMMAND", True, raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if on_path else None)
    _, *words = shlex.split(command_line.next_command("evaluate.py", model="runs/mine/best"))
    start = ["nepa-keras"] if on_path else [sys.orig_argv[0], "-m", "nepa_keras"]
    assert words == [*start, "evaluate", "--model=runs/mine/best"]
