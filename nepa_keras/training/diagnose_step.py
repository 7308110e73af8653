"""Diagnosis of a non-finite step: pixels, weights, outputs of blocks, losses, gradients."""

import math

import keras
import numpy as np
from keras import ops

from nepa_keras import backends
from nepa_keras.clone import relative_path
from nepa_keras.nepa import NepaPretrainer
from nepa_keras.training.model_state import restore_state

_NAMED = 8  # images or variables listed by name


def diagnose_step(model: NepaPretrainer, state: dict, batch, names: list[str]) -> dict[str, str]:
    """Find what is not finite in a step, from its input to its gradients, as text by topic.

    Args:
        model: compiled. It is left with the weights before the step and with another optimizer.
        state: state of the model before the step, from `model_state`.
        batch: the step's batch, as `fit` takes it.
        names: names of its images, or none.
    """
    restore_state(model, state)
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    found = {"pixels": _range(x)}
    weights = {relative_path(v): _largest(v) for v in model.trainable_variables}
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
    restore_state(model, state)  # to repeat the random numbers of the step
    watch = _WatchGradients(getattr(model.optimizer, "loss_scale", None))
    model.compile(optimizer=watch, jit_compile=model.jit_compile)
    model.train_on_batch(x, y, sample_weight)
    counts, largest = (ops.convert_to_numpy(v) for v in (watch.counts, watch.largest))
    paths = [relative_path(v) for v in model.trainable_variables]
    spoiled = [path for path, count in zip(paths, counts, strict=True) if count]
    found["gradient not finite of"] = f"{len(spoiled)} of {len(paths)} variables" + _listed(spoiled)
    if len(spoiled) < len(paths):
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
    """Largest absolute value; NaN if any value is NaN."""
    return float(np.max(np.abs(ops.convert_to_numpy(ops.cast(x, "float32")))))


def _largest_of(values: dict[str, float]) -> str:
    """Format the three largest values; NaN counts as the largest."""
    order = sorted(values, key=lambda name: np.nan_to_num(values[name], nan=math.inf), reverse=True)
    return ", ".join(f"{name} {values[name]:.3g}" for name in order[:3])


def _listed(names: list[str]) -> str:
    more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f": {', '.join(names[:_NAMED])}{more}" if names else ""


def _losses(model, x, y, sample_weight) -> np.ndarray:
    """Loss of each image (B,), from one forward pass of the whole batch in training mode."""
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
    """Optimizer that inspects the gradients of a step and changes no weight.

    Args:
        loss_scale: factor of the loss, or None.

    Attributes:
        counts: number of non-finite gradient values of each variable.
        largest: largest finite absolute gradient value of each variable.
    """

    def __init__(self, loss_scale=None):
        super().__init__(learning_rate=0.0, name="watch_gradients")
        self.scale = 1.0 if loss_scale is None else float(loss_scale)

    def enable_loss_scaling(self):
        """Do nothing: the scale is that of the run."""

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
        """Do what `AdamW.apply_guarded` does, except for the update."""
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
