"""Replay of a non-finite step of a run, with a diagnosis; see `non_finite`."""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import keras
import numpy as np

from nepa_keras import backends
from nepa_keras.nepa import NepaPretrainer
from nepa_keras.training.checkpoints import Checkpoints
from nepa_keras.training.diagnose_step import diagnose_step
from nepa_keras.training.model_state import model_state, restore_state
from nepa_keras.training.non_finite import REPORT, versions
from nepa_keras.training.run_dir import RunDir
from nepa_keras.types import Logs

_LINES = 20  # steps before the last that each get a line; earlier ones get one per hundred


class Replay:
    """A kept non-finite step of a run (`KeepNonFinite`), ready to be computed again. Writes no files.

    Args:
        model: compiled as in the run; receives the state of the checkpoint.
        folder: RUN_DIR/non_finite/step-XXXXXXXX.
        batches_from, describe_batch: those of the run, see `fit_steps`.

    Raises:
        ValueError: the folder has no such step, its checkpoint is damaged or of another model, or the batch
            has other images than in the run.

    Example:
        >>> replay = Replay(model, "run/non_finite/step-00000123", batches_from)  # doctest: +SKIP
        >>> replay.run()  # doctest: +SKIP
    """

    def __init__(
        self,
        model: NepaPretrainer,
        folder: str | Path,
        batches_from: Callable[[int], Iterable],
        describe_batch: Callable[[int], dict] | None = None,
    ):
        self.model, self.batches_from = model, batches_from
        self.report = read_report(folder)
        self.step = self.report["step"]
        checkpoints = Checkpoints(RunDir(folder).checkpoints)
        saved = checkpoints.newest(at_most=self.step)
        if saved is None:
            raise ValueError(" ".join([f"{folder} has no whole checkpoint.", *checkpoints.damaged]))
        restore_state(model, saved.state)
        self.first = saved.step
        expected = self.report.get("batch")
        if expected and describe_batch is not None:
            _check_batch(self.step, expected, describe_batch(self.step))

    def run(self) -> bool:
        """Train up to the step, printing a line for each step, then print what in it is not finite.

        Returns:
            True if the step is non-finite again.
        """
        steps = _Steps(self.step)
        self.model.max_skipped_in_a_row = math.inf
        there, here = (", ".join(f"{n} {v}" for n, v in x.items()) for x in self._versions())
        print(
            f"from the checkpoint of step {self.first} to step {self.step}, by {here}"
            + (f" (the run: {there})" if there != here else "")
        )
        self.model.fit(
            self.batches_from(self.first),
            steps_per_epoch=1,
            initial_epoch=self.first,
            epochs=self.step + 1,
            shuffle=False,
            verbose=0,
            callbacks=[steps],
        )
        for what, found in diagnose_step(
            self.model, steps.before, self._batch(), self._names()
        ).items():
            print(f"{what:<24}{found}")
        print(f"step {self.step} is {'reproduced' if steps.skipped else 'not reproduced'}")
        return steps.skipped

    def _versions(self):
        return self.report["versions"], versions()

    def _batch(self):
        return next(iter(self.batches_from(self.step)))

    def _names(self) -> list[str]:
        batch = self.report.get("batch")
        if batch is None:
            return []
        return [f"{n} ({i})" for n, i in zip(batch["names"], batch["indices"], strict=True)]


def read_report(folder: str | Path) -> dict:
    """Read the report of a kept step.

    Raises:
        ValueError: there is none.
    """
    path = Path(folder).expanduser() / REPORT
    if not path.is_file():
        raise ValueError(
            f"{path} is missing; give the folder of a kept step, RUN_DIR/non_finite/step-XXXXXXXX."
        )
    report = json.loads(path.read_text())
    if not isinstance(report, dict) or not {"step", "versions"} <= set(report):
        raise ValueError(f"{path} is not the report of a non-finite step.")
    return report


def _check_batch(step: int, expected: dict, found: dict) -> None:
    if expected["indices"] != found["indices"]:
        there, here = (", ".join(map(str, x["indices"][:3])) for x in (expected, found))
        raise ValueError(
            f"The batch of step {step} had the images {there}, ... and now has {here}, ...; use the data and "
            "the seed of the run."
        )
    if expected["sha256"] != found["sha256"]:
        raise ValueError(
            f"The images of step {step} have other pixels than in the run: the files or their decoder have "
            "changed."
        )


class _Steps(keras.callbacks.Callback):
    """Print a line for each epoch of one step, and keep the state before the last."""

    def __init__(self, last: int):
        super().__init__()
        self.last = last
        self.before: dict[str, np.ndarray] = {}
        self.skipped = False

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.last:
            self.before = model_state(self.model)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        backends.sync(self.model)
        _, (norm,) = self.model.step_metrics["gradient_norm"].latest()
        self.skipped = not np.isfinite(norm)
        if np.isnan(norm):
            found = "loss not finite, skipped"
        else:
            found = f"loss {logs['loss']:.6g}, gradient norm {norm:.6g}"
            found += ", skipped" if self.skipped else ", ok"
        if self.last - epoch < _LINES or epoch % 100 == 0:
            print(f"step {epoch}: {found}", flush=True)
