"""Records of non-finite steps, from which they can be computed again; see `replay`.

    RUN_DIR/non_finite/
        step-00000123/                 the step after 123 others was skipped
            report.json                its batch, the gradient norms of its log interval, versions
            flags.txt                  flags of the run, if it has the file
            checkpoints/step-00000100/ the newest one at or before the step, as hard links

The weights of the step itself are not saved, as the host would have to wait for the device in every step.
Runs are deterministic: the checkpoint and the number of the step reproduce them.
"""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable

import keras
import numpy as np

from nepa_keras import backends
from nepa_keras.files import replacing
from nepa_keras.skipped_steps import NonFiniteError
from nepa_keras.training.callbacks import StepClock
from nepa_keras.training.checkpoints import Checkpoints
from nepa_keras.training.run_dir import RunDir
from nepa_keras.types import Logs

REPORT = "report.json"
_MOST = 3  # records kept per run
_QUANTILES = {"p50": 0.5, "p99": 0.99, "max": 1.0}


def quantiles(norms: np.ndarray) -> dict[str, float]:
    """p50, p99 and max of the finite values of a vector; NaN if there are none."""
    finite = norms[np.isfinite(norms)]
    if not len(finite):
        return dict.fromkeys(_QUANTILES, float("nan"))
    return {name: float(np.quantile(finite, share)) for name, share in _QUANTILES.items()}


class GradientNormQuantiles(keras.callbacks.Callback):
    """Log `gradient_norm_p50`, `_p99` and `_max` of each epoch, over its latest 1000 steps.

    Put this callback before those that write logs. The host reads the norms only at the end of an epoch.
    """

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        _, norms = _norms(self.model)
        logs.update({f"gradient_norm_{name}": value for name, value in quantiles(norms).items()})


class KeepNonFinite(keras.callbacks.Callback):
    """Keep what a replay of a skipped step needs: the first of consecutive ones, at most three per run.

    Put this callback before the one that saves checkpoints, and call `look` before each save, which removes
    older checkpoints. It is also a context around `fit`, for steps that stop it. Overflows that float16 loss
    scaling expects are ignored. Of several processes the first writes.

    Args:
        run_dir: folder of the run.
        checkpoints: checkpoints of the run, of which one is at or before each step.
        clock: the `StepClock` of the same `fit`.
        describe_batch: returns a JSON description of the batch after a number of steps.
        replay_with: command that computes the step again, without the folder that follows it.
    """

    def __init__(
        self,
        run_dir: RunDir,
        checkpoints: Checkpoints,
        clock: StepClock,
        describe_batch: Callable[[int], dict] | None = None,
        replay_with: str | None = None,
    ):
        super().__init__()
        self.run_dir, self.checkpoints, self.clock = run_dir, checkpoints, clock
        self.describe_batch, self.replay_with = describe_batch, replay_with
        self.writes = backends.process()[0] == 0
        self.looked_to = clock.step
        self.last_skipped: int | None = None  # last skipped step seen by `look`

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, NonFiniteError):
            self.look(stopped=True)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self.look()

    def look(self, stopped: bool = False) -> None:
        """Keep the first step skipped since the last look, unless it directly follows one seen then.

        Args:
            stopped: True if skipped steps have ended the run; then overflows of a loss scale count too.

        Raises:
            OSError: the disk is full or not writable.
        """
        if not self.writes or (self.clock.step == self.looked_to and not stopped):
            return
        before, norms = _norms(self.model)
        first = self.clock.interval_start + before
        scaled = getattr(self.model.optimizer, "loss_scale", None) is not None
        bad = np.isnan(norms) if scaled and not stopped else ~np.isfinite(norms)
        skipped = (first + np.flatnonzero(bad)).tolist()
        new = [step for step in skipped if step >= self.looked_to]
        self.looked_to = first + len(norms)
        known, self.last_skipped = self.last_skipped, new[-1] if new else self.last_skipped
        if new and new[0] - 1 != known:
            interval = {"first_step": first, "steps": len(norms), "gradient_norm": quantiles(norms)}
            loss_finite = not np.isnan(norms[new[0] - first])
            self._keep(
                new[0], {"loss_finite": loss_finite, "skipped_steps": skipped, "row": interval}
            )

    def _keep(self, step: int, report: dict):
        folder = self.run_dir.non_finite
        final = folder / f"step-{step:08d}"
        if final.exists() or len(list(folder.glob("step-*"))) >= _MOST:
            return
        saved = self.checkpoints.newest(at_most=step)
        if saved is None:
            print(f"\nstep {step} was not finite, but no whole checkpoint before it is left.")
            return
        path = self.checkpoints.path(saved.step)
        if self.describe_batch is not None:
            report["batch"] = self.describe_batch(step)
        report = {"step": step, "checkpoint": saved.step, **report, "versions": versions()}
        folder.mkdir(exist_ok=True)
        with replacing(final) as unfinished:
            kept = RunDir(unfinished).checkpoints / path.name
            shutil.copytree(path, kept, copy_function=_link)
            if self.run_dir.flags.exists():
                shutil.copy2(self.run_dir.flags, unfinished)
            (unfinished / REPORT).write_text(json.dumps(report, indent=1))
        command = f"{self.replay_with}{shlex.quote(str(final))}"
        again = f"; compute it again with {command}" if self.replay_with else ""
        print(f"\nstep {step} was not finite and changed nothing; it is kept in {final}{again}")


def versions() -> dict[str, str]:
    """Versions of Python, Keras and the backend."""
    backend = keras.backend.backend()
    return {
        "python": sys.version.split()[0],
        "keras": keras.__version__,
        backend: sys.modules[backend].__version__,
    }


def _norms(model) -> tuple[int, np.ndarray]:
    backends.sync(model)
    return model.step_metrics["gradient_norm"].latest()


def _link(source: str, target: str) -> None:
    """Hard-link a file, as the files of a checkpoint never change; copy it if links are not supported."""
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)
