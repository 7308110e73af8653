"""The page that compares runs: what differs, results beside each other, and folders that are no runs."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from nepa_keras.visualization import write_comparison, write_report
from tests.helpers.scripts import refusal, run_here

pytestmark = pytest.mark.once

LOG = "epoch,learning_rate,loss,step,val_loss\n0,0.001,-0.2,10,NA\n1,0.0005,-0.4,20,-0.3\n"


def run_dir(folder: Path, *flags: str, script: str = "pretrain", log: str = LOG) -> Path:
    folder.mkdir(parents=True)
    lines = [f"# KERAS_BACKEND=jax python {script}.py --flagfile=x", "# keras 3", *flags]
    (folder / "flags.txt").write_text("\n".join(lines) + "\n")
    (folder / "log.csv").write_text(log)
    Image.new("RGB", (4, 4)).save(folder / "similarity.png")
    return folder


def rows(page: str, caption: str) -> list[list[str]]:
    """The cells of the table of a name."""
    (table,) = re.findall(rf"{re.escape(caption)}</caption>(.*?)</table>", page, re.DOTALL)
    lines = re.findall(r"<tr[^>]*>(.*?)</tr>", table)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line) for line in lines]


def test_runs_of_one_script_beside_each_other(tmp_path, monkeypatch):
    """Show, by script, flags that differ, results in columns, curves in one chart, pictures side by side."""
    first = run_dir(tmp_path / "x" / "run", "--data=digits", "--flip", "--batch_size=8")
    run_dir(tmp_path / "y" / "run", "--data=digits", "--noflip", "--batch_size=16")
    table = [("measure", "before", "after"), ("k-NN", "10", "20")]
    write_report(first, tables={"Worth": table})
    monkeypatch.chdir(tmp_path)
    done = run_here("compare.py", "x/run", "y/run", "--output=new/page.html")
    assert done.returncode == 0, done.stderr
    page = Path("new/page.html").read_text()
    names = ["x/run", "y/run"]
    assert rows(page, "Flags that differ, pretrain") == [
        ["flag", *names],
        ["batch_size", "8", "16"],
        ["flip", "true", "false"],
    ]
    assert rows(page, "Flags that are the same in all") == [["flag", "value"], ["data", "digits"]]
    assert rows(page, "Worth") == [
        ["", *names],
        ["k-NN: before", "10", ""],
        ["k-NN: after", "20", ""],
    ]
    assert "No table of results in y/run." in page
    assert "--batch_size differs (8 and 16)" in page
    (loss,) = re.findall(r'aria-label="(Loss[^"]*)"', page)
    for name in names:
        assert f"{name}, training from \N{MINUS SIGN}0.2 at step 10 to \N{MINUS SIGN}0.4" in loss
        assert f"{name}, validation from" in loss
    assert page.count("data:image/png") == 2 and "<h3>similarity.png</h3>" in page
    assert "different scripts" not in page
    (alone,) = [path for path in (tmp_path / "new").iterdir()]
    assert alone.name == "page.html"


def test_runs_of_two_scripts_have_curves_of_their_own(tmp_path):
    """Runs without a row of their log are named."""
    runs = [
        run_dir(tmp_path / "pre", "--data=digits"),
        run_dir(tmp_path / "new", "--data=digits", log=""),
        run_dir(tmp_path / "tuned", "--model=pretrain/ema", script="finetune"),
    ]
    page = write_comparison(runs, tmp_path / "page.html").read_text()
    assert "different scripts: pretrain (pre and new); finetune (tuned)." in page
    labels = re.findall(r'aria-label="Loss: (\w+)', page)
    assert labels == ["pre", "tuned"]
    assert "No log.csv with curves in new." in page and "No flag differs." in page


def test_what_is_no_run_is_named(tmp_path):
    run, other = run_dir(tmp_path / "run"), run_dir(tmp_path / "other")
    empty = tmp_path / "empty"
    empty.mkdir()
    for folders, message in (
        ([run], "of 2 to 8 runs, not of 1"),
        ([run, tmp_path / "no"], f"{tmp_path / 'no'}: there is no such folder"),
        ([run, other, run], "given more than once"),
        ([run, empty], f"{empty}: no folder of a run"),
    ):
        said = refusal("compare.py", *folders, f"--output={tmp_path / 'page.html'}")
        assert message in said and said.count("\n") == 1
    assert "RUN RUN" in refusal("compare.py")
    # A folder in place of the page is left alone.
    assert "is a folder" in refusal("compare.py", run, other, f"--output={empty}")
    assert empty.is_dir() and not (tmp_path / "page.html").exists()
    (run / "results.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match=r"results.json is damaged; delete it"):
        write_comparison([run, other], tmp_path / "page.html")
