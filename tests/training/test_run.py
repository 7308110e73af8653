"""A run of fixed length and what it leaves in its folder."""

import csv
import gc
import itertools
import os
import re
import signal
import threading
import time

import keras
import numpy as np
import pytest

import nepa_keras
from nepa_keras.training import (
    OtherRunError,
    Preempted,
    RunDir,
    RunLock,
    Validation,
    adamw,
    callbacks,
    fit_steps,
)
from nepa_keras.training.model_state import model_state
from tests.helpers import tiny
from tests.helpers.scripts import run_python
from tests.helpers.short_run import STOPPED_AT, AskToEnd, batches


def rows_of(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def compiled():
    made = tiny.pretrainer()
    tiny.compile_model(made, adamw(1e-2, ema_decay=0.9))
    return made


model = pytest.fixture(compiled, name="model")


@pytest.mark.parametrize("steps", [3, 45])
def test_the_given_number_of_steps_is_trained_and_recorded(model, tmp_path, steps, capsys):
    fit_steps(model, batches, steps, 4, tmp_path)
    assert int(model.optimizer.iterations) == steps
    rows = rows_of(tmp_path / "log.csv")
    assert [float(row["step"]) for row in rows] == [
        *range(-(-steps // 20), steps, -(-steps // 20)),
        steps,
    ]
    assert all(float(row["images_per_second"]) > 0 for row in rows[1:])
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    out = capsys.readouterr().out
    assert f"step {steps} of {steps}, loss " in out and "\x1b" not in out and "\r" not in out

    saved = keras.saving.load_model(tmp_path / "checkpoint.keras")
    assert int(saved.optimizer.iterations) == steps
    for a, b in zip(tiny.weights(saved), tiny.weights(model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not list(tmp_path.glob("unfinished*"))


def test_batches_that_end_before_the_run_are_no_finished_run(model, tmp_path):
    def three(first):
        return itertools.islice(batches(first), 3)

    # On TensorFlow it is an error of tf.data with that text.
    with pytest.raises(Exception, match="The batches ended before the run did"):
        fit_steps(model, three, 20, 4, tmp_path)
    assert not (tmp_path / "checkpoint.keras").exists()


def test_waiting_for_data_is_logged(model, tmp_path, capsys):
    """The shares of the rows' times are what the generator slept, but for batches made ahead."""
    waited, pause, ahead = 0.0, 0.1, 3

    def slow(first):
        nonlocal waited
        for batch in batches(first):
            time.sleep(pause)
            waited += pause
            yield batch

    fit_steps(model, slow, 24, 4, tmp_path, seconds_waited=lambda: waited)
    rows = rows_of(tmp_path / "log.csv")[1:]  # the first leaves out the first batch
    seconds = [2 * 4 / float(row["images_per_second"]) for row in rows]
    found = sum(float(row["data_wait"]) * s for row, s in zip(rows, seconds, strict=True))
    assert abs(found - 22 * pause) <= ahead * pause
    assert "data_wait" in capsys.readouterr().out


def test_a_terminal_sees_one_bar_with_everything(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    fit_steps(
        model, batches, 9, 4, tmp_path, seconds_waited=lambda: 0.0, mfu=lambda speed: speed / 1e6
    )
    out = capsys.readouterr().out
    last = out.split("\r")[-1]
    for word in ("9/9", "loss: ", "img/s: ", "data_wait: ", "mfu: "):
        assert word in last, out
    for row in rows_of(tmp_path / "log.csv")[1:]:
        assert float(row["mfu"]) == pytest.approx(float(row["images_per_second"]) / 1e6)


def test_a_run_begins_with_the_time_of_its_first_step(tmp_path, capsys):
    """A resumed run included; compiled where the first was, which is fast on JAX."""
    jit_compile = keras.backend.backend() == "jax"
    for steps in (2, 4):
        model = tiny.compiled_pretrainer(compile_arguments={"jit_compile": jit_compile})
        fit_steps(model, batches, steps, 4, tmp_path)
        found = re.findall(r"^first step \d+\.\d s(.*)$", capsys.readouterr().out, re.MULTILINE)
        assert found == [", with compilation" if jit_compile else ""]


@pytest.mark.once
def test_a_file_sees_plain_lines():
    values = {"loss": -0.43214, "img/s": 1234.4, "data_wait": 0.021, "mfu": 0.3149}
    line = callbacks.progress_line(480, 1600, 128, values)
    assert line == (
        "step 480 of 1,600, loss -0.4321, img/s 1,234, data_wait 2%, mfu 31.5%, 0:01:56 left"
    )
    unknown = {"loss": -0.1, "img/s": float("nan")}
    assert callbacks.progress_line(1, 1600, 128, unknown) == "step 1 of 1,600, loss -0.1000"


def test_events_can_be_read_back(model, tmp_path):
    """Each row is there; the speed not of the first, whose only step is not timed."""
    fit_steps(model, batches, 3, 4, tmp_path)
    (path,) = tmp_path.glob("events.out.*")
    content = path.read_bytes()
    for name in (b"loss", b"gradient_norm", b"target_spread"):
        assert content.count(name) >= 3, name
    assert content.count(b"images_per_second") == 2


def test_throughput_counts_images_and_not_the_first_batch(model):
    clock = callbacks.StepClock(0, 10, 5)
    throughput = callbacks.Throughput(clock, 4)
    assert np.isnan(throughput.images_per_second)
    together = [clock, throughput]
    history = model.fit(
        batches(), steps_per_epoch=5, epochs=2, verbose=0, callbacks=together, shuffle=False
    )
    assert clock.step == 10
    assert history.history["step"] == [5, 10]
    # The first batch traces or compiles; were it counted, the first epoch would be slowest by far.
    first, second = history.history["images_per_second"]
    assert first > 0 and second > 0


def test_a_run_that_only_meets_non_finite_batches_stops(model, tmp_path):
    model.max_skipped_in_a_row = 2

    def bad(first):
        while True:
            yield (np.full((4, 8, 8, 1), np.nan, "float32"),)

    with pytest.raises(nepa_keras.NonFiniteError, match="in a row"):
        fit_steps(model, bad, 100, 4, tmp_path)


def trainer(seed: int):
    keras.utils.set_random_seed(seed)
    made = nepa_keras.NepaPretrainer(tiny.backbone(drop_path_rate=0.3))
    tiny.compile_model(made, adamw(1e-2, ema_decay=0.9))
    return made


class Taken:
    """A tracker that keeps what it is given."""

    name, errors = "Taken", ()

    def __init__(self):
        self.begun, self.taken = None, []

    def begin(self, step):
        self.begun = step

    def scalars(self, values, step):
        self.taken.append((step, dict(values)))


@pytest.mark.parametrize("steps", [20, 50])
def test_stopped_and_started_again_it_is_the_run_without_a_stop(tmp_path, steps):
    """Bit for bit: weights, averages, moments, seeds, and the log, also in the middle of a row."""
    straight = trainer(0)
    fit_steps(straight, batches, steps, 4, tmp_path / "straight")
    first = trainer(0)
    with pytest.raises(Preempted):
        fit_steps(first, batches, steps, 4, tmp_path / "again", callbacks=[AskToEnd()])
    assert int(first.optimizer.iterations) == STOPPED_AT
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    resumed, tracker = trainer(1), Taken()
    fit_steps(resumed, batches, steps, 4, tmp_path / "again", tracker=tracker)
    expected, found = model_state(straight), model_state(resumed)
    assert sorted(expected) == sorted(found)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    rows = [rows_of(tmp_path / name / "log.csv") for name in ("straight", "again")]
    assert len(rows[0]) == len(rows[1])
    for a, b in zip(*rows, strict=True):
        assert {k: v for k, v in a.items() if k != "images_per_second"} == {
            k: v for k, v in b.items() if k != "images_per_second"
        }
    assert tracker.begun == STOPPED_AT
    rest = [int(row["step"]) for row in rows[1] if int(row["step"]) > STOPPED_AT]
    assert [step for step, _ in tracker.taken] == rest
    assert tracker.taken[-1][1]["loss"] == pytest.approx(float(rows[1][-1]["loss"]))
    fit_steps(resumed, batches, steps, 4, tmp_path / "again")  # nothing is left to do
    assert int(resumed.optimizer.iterations) == steps


def test_checkpoints_of_each_so_many_steps_are_saved_and_stay(model, tmp_path):
    fit_steps(model, batches, 20, 4, tmp_path, keep_every=7)
    steps = [int(path.name[5:]) for path in sorted((tmp_path / "checkpoints").iterdir())]
    assert steps == [0, 7, 14, 18, 20]  # and the newest two


@pytest.mark.once
def test_rows_beyond_the_checkpoint_are_cut_from_the_log(tmp_path):
    run = RunDir(tmp_path)
    run.truncate_log(6)
    assert not run.log.exists()
    run.log.write_text("epoch,loss,step\n0,0.5,3\n1,0.4,6\n2,0.3,9\n3,0.")
    run.truncate_log(6)
    assert run.log.read_text() == "epoch,loss,step\n0,0.5,3\n1,0.4,6\n"


@pytest.mark.first_on("torch")
def test_a_folder_is_locked_while_a_run_is_in_it(model, tmp_path):
    """For other processes; this one may have locked it before, as the scripts do."""
    elsewhere = f"from nepa_keras.training import RunLock; RunLock({str(tmp_path)!r})"
    said = []

    class Try(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            said.append(run_python("-c", elsewhere).stderr)

    with RunLock(tmp_path):
        fit_steps(model, batches, 2, 4, tmp_path, callbacks=[Try()])
    assert "BlockingIOError" in said[0] and f"in use by process {os.getpid()}" in said[0]
    assert run_python("-c", elsewhere).returncode == 0


@pytest.mark.first_on("torch")
def test_the_log_is_that_of_the_checkpoint(tmp_path, capsys):
    """Emptied, cut or changed in the meantime, or removed: its rows come back, and it is said."""
    for damage in (
        lambda path: path.write_text(""),
        lambda path: path.write_bytes(path.read_bytes()[:40]),
        lambda path: path.write_bytes(b"\xff" + path.read_bytes()[1:]),
        lambda path: path.unlink(),
        None,
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        with pytest.raises(Preempted):
            fit_steps(compiled(), batches, 40, 4, folder, callbacks=[AskToEnd(21)])
        before = (folder / "log.csv").read_text()
        if damage:
            damage(folder / "log.csv")
        fit_steps(compiled(), batches, 40, 4, folder)
        assert (folder / "log.csv").read_text().startswith(before)
        assert [float(row["step"]) for row in rows_of(folder / "log.csv")] == [*range(2, 41, 2)]
        said = "its rows were restored from the checkpoint" in capsys.readouterr().out
        assert said == bool(damage)


@pytest.mark.first_on("torch")
def test_a_resumed_log_keeps_its_columns(tmp_path):
    """A version that logs more adds no column in the middle of a file."""

    class Measure(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["an_addition"] = 99.0

    with pytest.raises(Preempted):
        fit_steps(compiled(), batches, 40, 4, tmp_path, callbacks=[AskToEnd(21)])
    before = rows_of(tmp_path / "log.csv")
    fit_steps(compiled(), batches, 40, 4, tmp_path, callbacks=[Measure()])
    rows = rows_of(tmp_path / "log.csv")
    assert [row.keys() for row in rows] == [before[0].keys()] * 20
    assert [float(row["step"]) for row in rows] == [*range(2, 41, 2)]
    assert "99.0" not in rows[-1].values()


def test_a_run_goes_on_as_what_it_was_begun_only(tmp_path):
    def run(**identity):
        fit_steps(compiled(), batches, 4, 4, tmp_path, identity=identity)

    run(data="12 images (ab)", flags="--a=1")
    run(data="12 images (ab)", flags="--a=1")
    with pytest.raises(
        OtherRunError, match=r"other data: 12 images \(ab\), and now 11 images \(cd\)"
    ):
        run(data="11 images (cd)", flags="--a=1")
    with pytest.raises(OtherRunError, match="other flags"):
        run(data="12 images (ab)", flags="--a=2")


def test_a_callback_that_the_run_was_begun_without_is_named(tmp_path):
    fit_steps(compiled(), batches, 2, 4, tmp_path)
    validation = Validation(lambda model: {"accuracy": 0.5}, save_best=lambda best: None)
    with pytest.raises(ValueError, match="was started without Validation"):
        fit_steps(compiled(), batches, 4, 4, tmp_path, callbacks=[validation])


@pytest.mark.first_on("torch")
def test_stopped_runs_leave_no_file_open(tmp_path):
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    found = []
    for _ in range(6):
        with pytest.raises(Preempted):
            fit_steps(compiled(), batches, 40, 4, tmp_path, callbacks=[AskToEnd(2)])
        gc.collect()
        found.append((open_files(), threading.active_count()))
    assert found[-1] == found[1], found
