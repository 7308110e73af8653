"""Trackers: one record of a run through stops, each number once, and training goes on without a broken one.

Their packages are large, so that stand-ins take the calls; the second tier calls the packages where they are.
"""

import importlib.util
import json
import os
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from nepa_keras.training import Trackers, check_trackers, open_trackers
from tests.helpers.scripts import refusal, run_python

pytestmark = pytest.mark.once

FLAGS = {"data": "digits", "steps": "30"}
TABLE = [("measure", "after"), ("k-NN", "20")]
PICTURE = np.zeros((4, 6, 3), "uint8")


class Calls(list):
    """Record of a call: name, arguments, and keywords, if any."""

    def of(self, name: str) -> list:
        return [call[1:] for call in self if call[0] == name]

    def taker(self, name: str, result=None):
        """A function that notes its calls."""

        def take(*arguments, **keywords):
            self.append((name, *arguments, *([keywords] if keywords else [])))
            return result

        return take


@pytest.fixture
def mlflow(monkeypatch):
    """A stand-in for MLflow with a store of one experiment; its runs are "run 0", "run 1" and so on."""
    calls = Calls()

    class MlflowException(Exception):
        error_code = "RESOURCE_DOES_NOT_EXIST"

    class Client:
        lost = False

        def __init__(self, store):
            calls.append(("store", store))
            for name in ("update_run", "log_batch", "log_image", "log_text", "set_terminated"):
                setattr(self, name, calls.taker(name))

        def get_run(self, identity):
            if self.lost:
                raise MlflowException(identity)

        def get_experiment_by_name(self, name):
            calls.append(("experiment", name))

        def create_experiment(self, name):
            return "place"

        def create_run(self, place, run_name):
            identity = f"run {len(calls.of('create_run'))}"
            calls.append(("create_run", place, run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id=identity))

    module, entities, exceptions = (
        ModuleType(f"mlflow{part}") for part in ("", ".entities", ".exceptions")
    )
    module.MlflowClient, module.entities, module.exceptions = Client, entities, exceptions
    module.calls = calls
    entities.Param = lambda key, value: (key, value)
    entities.Metric = lambda key, value, timestamp, step: (key, value, step)
    exceptions.MlflowException = MlflowException
    for each in (module, entities, exceptions):
        each.__spec__ = importlib.util.spec_from_loader(each.__name__, None)
        monkeypatch.setitem(sys.modules, each.__name__, each)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return module


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for Weights & Biases."""
    calls, module = Calls(), ModuleType("wandb")

    def init(**given):
        calls.append(("init", given))
        run = SimpleNamespace(id=given["id"])
        for name in ("log", "define_metric", "finish"):
            setattr(run, name, calls.taker(name))
        return run

    module.Error = type("Error", (Exception,), {})
    module.Settings = lambda **given: given
    module.Image = lambda pixels: ("image", pixels.shape)
    module.Table = lambda columns, data: ("table", columns, data)
    module.init, module.calls = init, calls
    module.__spec__ = importlib.util.spec_from_loader("wandb", None)
    monkeypatch.setitem(sys.modules, "wandb", module)
    for name in ("WANDB_PROJECT", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    return module


def live(name: str, run_dir) -> None:
    """A run that is killed after step 20, goes on from 10, and ends."""
    run_dir.mkdir(exist_ok=True)
    with pytest.raises(KeyboardInterrupt), open_trackers([name], run_dir, FLAGS) as tracker:
        tracker.begin(0)
        for step in (10, 20):
            tracker.scalars({"loss": -float(step)}, step)
        raise KeyboardInterrupt
    with open_trackers([name], run_dir, FLAGS) as tracker:
        tracker.begin(10)
        for step in (20, 30):
            tracker.scalars({"loss": -float(step)}, step)
        tracker.picture("similarity", PICTURE, 30)
        tracker.table("Worth", TABLE, 30)


def test_a_run_of_mlflow(mlflow, tmp_path, monkeypatch, capsys):
    live("mlflow", tmp_path / "my run")
    calls = mlflow.calls
    assert calls.of("store") == [((tmp_path / "mlruns").as_uri(),)] * 2
    assert calls.of("create_run") == [("place", "my run")]
    parameters, *rows = calls.of("log_batch")
    assert parameters == ("run 0", {"params": list(FLAGS.items())})
    assert rows == [("run 0", {"metrics": [("loss", -s, int(s))]}) for s in (10.0, 20.0, 30.0)]
    assert calls.of("update_run") == [("run 0", {"status": "RUNNING"})]
    ((identity, pixels, file),) = calls.of("log_image")
    assert (identity, pixels is PICTURE, file) == ("run 0", True, "pictures/similarity.png")
    assert calls.of("log_text") == [
        ("run 0", "| measure | after |\n|---|---|\n| k-NN | 20 |", "results/Worth.md")
    ]
    assert calls.of("set_terminated") == [("run 0", "KILLED"), ("run 0", "FINISHED")]

    # Of a store that has the run no more a new one begins; the environment names another.
    mlflow.MlflowClient.lost = True
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somewhere")
    live("mlflow", tmp_path / "my run")
    assert "no longer has the run run 0" in capsys.readouterr().out
    assert calls[-1][1] == "run 2" and calls.of("store")[-1] == ("http://somewhere",)


def test_a_run_of_weights_and_biases(wandb, tmp_path):
    live("wandb", tmp_path / "run")
    first, second = (given for (given,) in wandb.calls.of("init"))
    assert first == second and first["resume"] == "allow"
    assert (first["mode"], first["project"], first["name"]) == ("offline", "nepa_keras", "run")
    assert first["config"] == FLAGS and first["dir"] == str(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "trackers.json").read_text()) == {
        "wandb": {"id": first["id"], "step": 30}
    }
    assert wandb.calls.of("define_metric")[:2] == [("step",), ("*", {"step_metric": "step"})]
    assert [logged for (logged,) in wandb.calls.of("log")] == [
        {"loss": -10.0, "step": 10},
        {"loss": -20.0, "step": 20},
        {"loss": -30.0, "step": 30},
        {"similarity": ("image", PICTURE.shape), "step": 30},
        {"Worth": ("table", ["measure", "after"], [["k-NN", "20"]]), "step": 30},
    ]
    assert wandb.calls.of("finish") == [({"exit_code": 1},), ({"exit_code": 0},)]
    (tmp_path / "run" / "trackers.json").write_text("[]")
    with pytest.raises(ValueError, match=r"trackers.json is damaged; delete it"):
        open_trackers(["wandb"], tmp_path / "run")


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_rows_that_a_tracker_lacks_are_sent_from_the_log(name, wandb, mlflow, tmp_path):
    """A start was killed before wandb wrote its rows, or it had no tracker."""
    killed = open_trackers([name], tmp_path)
    killed.begin(0)
    killed.scalars({"loss": -1.0}, 1)
    (tmp_path / "log.csv").write_text(
        "epoch,loss,step,val_loss\r\n0,-1.0,1.0,NA\r\n1,-2.0,2,nan\r\n2,cut"
    )
    with open_trackers([name], tmp_path) as tracker:
        tracker.begin(2)
        tracker.scalars({"loss": -3.0}, 3)
    if name == "wandb":  # the first may be there twice, and is the same
        assert [logged for (logged,) in wandb.calls.of("log")] == [
            {"loss": -float(step), "step": step} for step in (1, 1, 2, 3)
        ]
    else:
        _, *rows = mlflow.calls.of("log_batch")
        assert [row[1]["metrics"] for row in rows] == [[("loss", -float(s), s)] for s in (1, 2, 3)]
    record = json.loads((tmp_path / "trackers.json").read_text())[name]
    assert record["step"] == 3


def test_training_goes_on_without_a_tracker_that_fails(wandb, mlflow, tmp_path, capsys):
    with open_trackers(["wandb", "mlflow"], tmp_path) as trackers:
        trackers.begin(0)

        def fail(*arguments, **keywords):
            raise mlflow.exceptions.MlflowException("no answer")

        trackers.trackers[1].client.log_batch = fail
        for step in (1, 2):
            trackers.scalars({"loss": 0.5}, step)
    assert capsys.readouterr().out == "MLflow is dropped for the rest of this run: no answer\n"
    assert len(wandb.calls.of("log")) == 2
    # What is wrong in the program is no error of a tracker.
    with pytest.raises(TypeError), Trackers([SimpleNamespace(errors=(), finish=None)]):
        pass


def test_a_tracker_that_cannot_be_had_is_one_sentence_at_the_start(monkeypatch, tmp_path):
    for package in ("mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    flags = ["--data=digits", f"--run_dir={tmp_path / 'run'}"]
    assert refusal("pretrain.py", *flags, "--tracker=tensorboard,mlflow") == (
        "pretrain.py: The tracker mlflow needs mlflow, which is not installed: pip install mlflow-skinny.\n"
    )
    with pytest.raises(ImportError, match="pip install wandb"):
        check_trackers(["wandb"])
    with pytest.raises(
        ValueError, match="no tracker 'comet'; choose from tensorboard, mlflow, wandb"
    ):
        check_trackers(["comet"])
    assert not (tmp_path / "run").exists()


REAL = """
import pathlib, sys
sys.path[:0] = sys.argv[2:]
from tests.training.test_trackers import live
live("mlflow", pathlib.Path(sys.argv[1], "mlflow"))
live("wandb", pathlib.Path(sys.argv[1], "wandb"))
"""


@pytest.mark.full
def test_the_packages_take_what_the_stand_ins_take(tmp_path):
    """Real trackers where both are installed; else (as in CI) the message that says how to get them."""
    packages = {"mlflow": "mlflow-skinny", "wandb": "wandb"}
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    for name in missing:
        with pytest.raises(ImportError, match=f"pip install {packages[name]}"):
            check_trackers([name])
    if missing:
        return
    clean = {"MLFLOW_TRACKING_URI": "", "WANDB_MODE": "offline", "WANDB_PROJECT": ""}
    done = run_python("-c", REAL, tmp_path, os.getcwd(), **clean)
    assert done.returncode == 0, done.stderr
    (loss,) = (tmp_path / "mlruns").glob("*/*/metrics/loss")
    assert [line.split()[1:] for line in loss.read_text().splitlines()] == [
        ["-10.0", "10"],
        ["-20.0", "20"],
        ["-30.0", "30"],
    ]
    assert (loss.parents[1] / "artifacts" / "results" / "Worth.md").exists()
    identity = json.loads((tmp_path / "wandb" / "trackers.json").read_text())["wandb"]["id"]
    parts = list((tmp_path / "wandb" / "wandb").glob("offline-run-*"))
    assert parts and all(part.name.endswith(identity) for part in parts)
