"""A step that is not finite: kept with what leads to it, computed again, and looked into."""

import csv
import itertools
import json
import os
import signal

import keras
import numpy as np
import pytest

import nepa_keras
from nepa_keras import step_metrics
from nepa_keras.training import Replay, adamw, diagnose_step, fit_steps, non_finite
from nepa_keras.training.checkpoints import Checkpoints
from nepa_keras.training.model_state import model_state
from tests.helpers import tiny


def trainer(seed: int = 0, dtype=None, **optimizer):
    """Model with parts that draw random numbers, so that a replay needs the seeds, too."""
    keras.utils.set_random_seed(seed)
    model = nepa_keras.NepaPretrainer(tiny.backbone(drop_path_rate=0.3, dtype=dtype))
    tiny.compile_model(model, adamw(1e-2, ema_decay=0.9, **optimizer))
    return model


def stream(bad=()):
    """Batches from a step on; at each of the `bad` steps one pixel of the image 1 is NaN."""

    def batches_from(first):
        for step in itertools.count(first):
            images = tiny.images(4, seed=step)
            if step in bad:
                images[1, 2, 3, 0] = np.nan
            yield (images,)

    return batches_from


def describe(step):
    return {"indices": [4 * step + i for i in range(4)], "names": list("abcd"), "sha256": "0"}


def kept(run_dir) -> list[int]:
    return sorted(int(path.name[5:]) for path in (run_dir / "non_finite").glob("*"))


def report_of(run_dir, step: int) -> dict:
    return json.loads((run_dir / "non_finite" / f"step-{step:08d}" / "report.json").read_text())


class StateBefore(keras.callbacks.Callback):
    """State before a step of the run."""

    def __init__(self, step: int):
        super().__init__()
        self.left, self.state = step, None

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            self.state = model_state(self.model)


def content(folder) -> dict:
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [folder, *folder.rglob("*")]
    }


def test_a_bad_batch_is_kept_and_its_replay_begins_with_the_very_same_weights(
    tmp_path, monkeypatch, capsys
):
    """Bit for bit, though the run has removed that checkpoint since; and what is bad is named."""
    bad, before = 25, StateBefore(25)
    (tmp_path / "flags.txt").write_text("--seed=3\n")
    more = {"callbacks": [before], "describe_batch": describe, "replay_with": "replay "}
    fit_steps(trainer(), stream({bad}), 60, 4, tmp_path, **more)
    folder = tmp_path / "non_finite" / f"step-{bad:08d}"
    assert f"step {bad} was not finite" in capsys.readouterr().out
    assert kept(tmp_path) == [bad]
    assert (folder / "flags.txt").read_text() == "--seed=3\n"
    report = report_of(tmp_path, bad)
    assert report["checkpoint"] == 24 == Checkpoints(folder / "checkpoints").newest().step
    assert 24 not in Checkpoints(tmp_path / "checkpoints").steps()
    assert report["loss_finite"] is False and report["skipped_steps"] == [bad]
    assert report["batch"] == describe(bad)
    assert report["row"]["first_step"] == 24 and report["row"]["steps"] == 3
    assert keras.__version__ in report["versions"].values()

    seen = []
    monkeypatch.setattr(
        nepa_keras.training.replay,
        "diagnose_step",
        lambda model, state, *rest: (
            seen.append(state) or diagnose_step.diagnose_step(model, state, *rest)
        ),
    )
    files = content(tmp_path)
    again = trainer(seed=1)
    assert Replay(again, folder, stream({bad}), describe).run() is True
    assert content(tmp_path) == files, "a replay writes nothing"
    assert sorted(seen[0]) == sorted(before.state)
    for name, value in before.state.items():
        np.testing.assert_array_equal(seen[0][name], value, err_msg=name)
    out = capsys.readouterr().out
    assert "step 24: loss" in out and f"step {bad}: loss not finite, skipped" in out
    assert "1 of 256 not finite" in out and f"1 of 4 images: b ({4 * bad + 1})" in out
    variables = len(again.trainable_variables)
    assert f"{variables} of {variables} variables" in out and "is reproduced" in out


def test_a_kept_batch_is_finite_after_replay(tmp_path, capsys):
    """Mended files: the step is not reproduced, and nothing is found."""
    fit_steps(trainer(), stream({2}), 3, 4, tmp_path)
    assert Replay(trainer(), tmp_path / "non_finite/step-00000002", stream()).run() is False
    out = capsys.readouterr().out
    assert "0 of 4 images" in out and "largest gradients" in out and "is not reproduced" in out


@pytest.mark.parametrize("bad", [9, 12])
def test_the_checkpoint_of_a_kept_batch_is_not_deleted(bad, tmp_path):
    """Rows of 8 for the accumulation, a checkpoint every 2 steps, each of which removes the one before."""
    fit_steps(trainer(accumulation_steps=8), stream({bad}), 20, 4, tmp_path, keep_last=1)
    assert kept(tmp_path) == [bad]
    assert report_of(tmp_path, bad)["checkpoint"] == bad // 2 * 2


def test_the_first_bad_batches_of_a_row_are_kept_up_to_three(tmp_path):
    fit_steps(trainer(), stream({2, 3, 4, 8, 12, 13, 18}), 24, 4, tmp_path)
    assert kept(tmp_path) == [2, 8, 12]
    assert report_of(tmp_path, 12)["skipped_steps"] == [12, 13]


def test_a_run_stopped_by_bad_batches_keeps_the_first(tmp_path):
    model = trainer()
    with pytest.raises(nepa_keras.NonFiniteError):
        fit_steps(model, stream(range(25, 200)), 200, 4, tmp_path)
    assert kept(tmp_path) == [25]
    report = report_of(tmp_path, 25)
    assert report["checkpoint"] == 20 and report["row"]["gradient_norm"]["max"] > 0
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_overflows_that_a_loss_scale_is_there_for_are_not_kept_unless_they_end_the_run(
    tmp_path, capsys
):
    model = trainer(dtype="mixed_float16")
    model.optimizer.loss_scale.assign(2.0**26)
    fit_steps(model, stream({15}), 20, 4, tmp_path)
    assert float(model.optimizer.loss_scale) < 2.0**25 and kept(tmp_path) == [15]

    model.max_skipped_in_a_row = 4
    model.optimizer.loss_scale.assign(2.0**60)
    (tmp_path / "second").mkdir()
    with pytest.raises(nepa_keras.NonFiniteError):
        fit_steps(model, stream(), 80, 4, tmp_path / "second")
    (step,) = kept(tmp_path / "second")
    assert report_of(tmp_path / "second", step)["loss_finite"] is True
    folder = tmp_path / "second" / "non_finite" / f"step-{step:08d}"
    assert Replay(trainer(dtype="mixed_float16"), folder, stream()).run() is True
    out = capsys.readouterr().out
    assert f"step {step}: loss -0" in out and ", skipped" in out
    assert "0 of 4 images" in out and "not finite of  0 of" not in out


def test_unknown_steps_and_other_runs_are_refused(tmp_path):
    fit_steps(trainer(), stream({1}), 2, 4, tmp_path, describe_batch=describe)
    folder = tmp_path / "non_finite" / "step-00000001"

    def refused(words, model=None, place=folder, describe_batch=describe):
        with pytest.raises(ValueError, match=words):
            Replay(model or trainer(), place, stream(), describe_batch)

    refused("report.json is missing", place=tmp_path / "checkpoints")
    refused("another model", model=trainer(accumulation_steps=2))
    refused("other images|images 4, 5", describe_batch=lambda step: describe(step + 1))
    refused("other pixels", describe_batch=lambda step: describe(step) | {"sha256": "1"})
    state = next(folder.glob("checkpoints/*/state.safetensors"))
    os.truncate(state, 100)
    refused("no whole checkpoint.*damaged")
    (folder / "report.json").write_text("[]")
    refused("not the report of a non-finite step")


def test_norms_are_kept_one_by_one_and_the_oldest_go_first(monkeypatch):
    monkeypatch.setattr(step_metrics, "_NORMS_KEPT", 5)
    metric = step_metrics.GradientNorm()
    values = [1.0, float("nan"), 3.0, float("inf"), 5.0, 6.0, 7.0]
    for count, value in enumerate(values, 1):
        metric.update_state(value)
        first, norms = metric.latest()
        assert first == max(0, count - 5)
        np.testing.assert_array_equal(norms, values[first:count])
    assert float(metric.result()) == pytest.approx(np.mean([1, 3, 5, 6, 7]))
    metric.reset_state()
    assert metric.latest()[1].size == 0
    metric.update_state(9.0)
    np.testing.assert_array_equal(metric.latest()[1], [9.0])


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_the_log_has_quantiles_of_the_norms_of_its_row(accumulation_steps, tmp_path):
    """Against the norms read after each step; rows of 2, the third with a step that was skipped."""
    model, norms = trainer(accumulation_steps=accumulation_steps), []

    def read(batch, logs):
        nepa_keras.backends.sync(model)
        norms.append(model.step_metrics["gradient_norm"].latest()[1][-1])

    reading = keras.callbacks.LambdaCallback(on_train_batch_end=read)
    fit_steps(model, stream({5}), 22, 4, tmp_path, callbacks=[reading])
    with open(tmp_path / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(norms) == 22 and np.flatnonzero(np.isnan(norms)).tolist() == [5]
    for number, row in enumerate(rows):
        values = [norm for norm in norms[2 * number : 2 * number + 2] if np.isfinite(norm)]
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            expected = np.quantile(values, share)
            assert float(row[f"gradient_norm_{name}"]) == pytest.approx(expected, rel=1e-6)
        assert float(row["gradient_norm"]) == pytest.approx(np.mean(values), rel=1e-6)


@pytest.mark.once
def test_quantiles_are_of_the_finite_norms():
    norms = np.array([np.nan, *range(1, 101), np.inf], "float32")
    found = non_finite.quantiles(norms)
    assert found == {"p50": 50.5, "p99": pytest.approx(99.01), "max": 100.0}
    assert all(np.isnan(value) for value in non_finite.quantiles(norms[:1]).values())
