"""Computes a step again that was not finite, and says what in it is not; see `non_finite`."""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import keras
import numpy as np
from keras import ops

from nepa_keras import backends
from nepa_keras.nepa import NepaPretrainer
from nepa_keras.training.checkpoints import Checkpoints, model_state, restore_state
from nepa_keras.training.non_finite import versions

_LINES = 20  # of the steps before; of those further back every hundredth has one
_NAMED = 8  # images and variables in a list


class Replay:
    """A step of a run that `KeepNonFinite` kept, ready to be computed again. Writes nothing.

    Args:
        model: compiled as in the run; gets the state of the checkpoint.
        folder: RUN_DIR/non_finite/step-XXXXXXXX.
        batches_from, describe_batch: those of the run, see `fit_steps`.

    Raises:
        ValueError: the folder holds no such step, its checkpoint is damaged or of another model, or the batch
            is made of other images.
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
        checkpoints = Checkpoints(Path(folder) / "checkpoints")
        saved = checkpoints.newest(at_most=self.step)
        if saved is None:
            raise ValueError(" ".join([f"{folder} has no whole checkpoint.", *checkpoints.damaged]))
        restore_state(model, saved.state)
        self.first = saved.step
        expected = self.report.get("batch")
        if expected and describe_batch is not None:
            _check_batch(self.step, expected, describe_batch(self.step))

    def run(self) -> bool:
        """Goes to the step, printing a line for each, and then prints what is not finite in it.

        Returns:
            Whether the step is not finite again.
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
        for what, found in examine(self.model, steps.before, self._batch(), self._names()).items():
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
    """The report of a step that was kept.

    Raises:
        ValueError: there is none.
    """
    path = Path(folder) / "report.json"
    if not path.is_file():
        raise ValueError(
            f"{path} is missing; a step that was not finite is kept as RUN_DIR/non_finite/step-XXXXXXXX."
        )
    report = json.loads(path.read_text())
    if not isinstance(report, dict) or not {"step", "versions"} <= set(report):
        raise ValueError(f"{path} is no report of a step that was not finite.")
    return report


def _check_batch(step: int, expected: dict, found: dict) -> None:
    if expected["indices"] != found["indices"]:
        there, here = (", ".join(map(str, x["indices"][:3])) for x in (expected, found))
        raise ValueError(
            f"The batch of step {step} was made of the images {there}, ... and is now of {here}, ...; the "
            "data or the seed is another."
        )
    if expected["sha256"] != found["sha256"]:
        raise ValueError(
            f"The images of step {step} have other pixels than in the run; files or their decoder changed."
        )


class _Steps(keras.callbacks.Callback):
    """Prints a line for each epoch of one step, and keeps the state before the last."""

    def __init__(self, last: int):
        super().__init__()
        self.last = last
        self.before, self.skipped = {}, False

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.last:
            self.before = model_state(self.model)

    def on_epoch_end(self, epoch, logs=None):
        getattr(self.model, "jax_state_sync", lambda: None)()
        _, (norm,) = self.model.step_metrics["gradient_norm"].latest()
        self.skipped = not np.isfinite(norm)
        if np.isnan(norm):
            found = "loss not finite, skipped"
        else:
            found = f"loss {logs['loss']:.6g}, gradient norm {norm:.6g}"
            found += ", skipped" if self.skipped else ", ok"
        if self.last - epoch < _LINES or epoch % 100 == 0:
            print(f"step {epoch}: {found}", flush=True)


def examine(model: NepaPretrainer, state: dict, batch, names: list[str]) -> dict[str, str]:
    """What is not finite in a step, in words, from its input to the gradients.

    Args:
        state: of the model before the step, of `model_state`. The model has it afterwards, with another
            optimizer.
        batch: that of the step, as `fit` takes it.
        names: of its images, or none.
    """
    restore_state(model, state)
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    found = {"pixels": _range(x)}
    weights = {v.path: _largest(v) for v in model.trainable_variables}
    found["largest weights"] = _largest_of(weights)
    outputs = [_largest(h) for h in model.backbone.block_outputs(x)]
    places = [*(f"block {i}" for i in range(len(outputs) - 1)), "final norm"]
    found["largest outputs"] = ", ".join(
        f"{place} {value:.3g}" for place, value in zip(places, outputs, strict=True)
    )
    losses = _losses(model, x, y, sample_weight)
    bad = np.flatnonzero(~np.isfinite(losses)).tolist()
    found["loss not finite of"] = f"{len(bad)} of {len(losses)} images" + _listed(
        [names[i] if names else f"number {i}" for i in bad]
    )
    restore_state(model, state)  # the random numbers of the step again
    watch = _WatchGradients(getattr(model.optimizer, "loss_scale", None))
    model.compile(optimizer=watch, jit_compile=model.jit_compile)
    model.train_on_batch(x, y, sample_weight)
    counts, largest = (ops.convert_to_numpy(v) for v in (watch.counts, watch.largest))
    paths = [v.path for v in model.trainable_variables]
    spoiled = [path for path, count in zip(paths, counts, strict=True) if count]
    found["gradient not finite of"] = f"{len(spoiled)} of {len(paths)} variables" + _listed(spoiled)
    found["largest gradients"] = _largest_of(dict(zip(paths, largest.tolist(), strict=True)))
    return found


def _range(x) -> str:
    x = np.asarray(x)
    finite = np.isfinite(x)
    spoiled = f"{np.sum(~finite)} of {x.size} not finite, the others " if not finite.all() else ""
    return (
        f"{spoiled}from {x[finite].min():.3g} to {x[finite].max():.3g}" if finite.any() else "none"
    )


def _largest(x) -> float:
    """The largest absolute value; NaN if there is one."""
    return float(np.max(np.abs(ops.convert_to_numpy(ops.cast(x, "float32")))))


def _largest_of(values: dict[str, float]) -> str:
    """The three largest; NaN counts as larger than all."""
    order = sorted(values, key=lambda name: np.nan_to_num(values[name], nan=math.inf), reverse=True)
    return ", ".join(f"{name} {values[name]:.3g}" for name in order[:3])


def _listed(names: list[str]) -> str:
    more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f": {', '.join(names[:_NAMED])}{more}" if names else ""


def _losses(model, x, y, sample_weight) -> np.ndarray:
    """The loss of each image (B,), by the forward pass of the whole batch as in training."""
    y_pred = model(x, training=True)

    def of(i):
        of_one = keras.tree.map_structure(
            lambda a: None if a is None else a[i : i + 1],
            {"x": x, "y": y, "y_pred": y_pred, "sample_weight": sample_weight},
            none_is_leaf=True,
        )
        return model.compute_loss(**of_one)

    return np.array([float(ops.convert_to_numpy(of(i))) for i in range(len(x))])


class _WatchGradients(keras.optimizers.Optimizer):
    """Looks at the gradients of a step and changes no weight.

    Args:
        loss_scale: what the loss is multiplied by, or None.

    Attributes:
        counts: of values that are not finite, for each variable.
        largest: absolute value of those that are, for each variable.
    """

    def __init__(self, loss_scale=None):
        super().__init__(learning_rate=0.0)
        self.scale = 1.0 if loss_scale is None else float(loss_scale)

    def enable_loss_scaling(self):
        """The scale is that of the run."""

    def scale_loss(self, loss):
        return loss * self.scale

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.counts = self.add_variable((len(variables),), "zeros", "float32", name="counts")
        self.largest = self.add_variable((len(variables),), "zeros", "float32", name="largest")

    @property
    def trainable_variables(self) -> list:
        return self._trainable_variables

    def apply_guarded(self, gradients, variables=None, loss=0.0):
        """As `AdamW.apply_guarded`, but for the update."""
        if not self.built:
            self.build(variables)
        present = [ops.zeros(()) if g is None else ops.cast(g, "float32") for g in gradients]
        present = [g / self.scale for g in present]
        finite = [ops.isfinite(g) for g in present]
        self.counts.assign(ops.stack([ops.sum(ops.cast(~f, "float32")) for f in finite]))
        sizes = [ops.where(f, ops.abs(g), 0.0) for f, g in zip(finite, present, strict=True)]
        self.largest.assign(ops.stack([ops.max(size) for size in sizes]))
        norm = backends.global_norm(present)
        return norm, ops.isfinite(norm) & ops.isfinite(loss)
