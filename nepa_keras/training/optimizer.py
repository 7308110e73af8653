"""AdamW of the recipes: epsilon after bias correction, parameter groups, clipping, guard and EMA in one step.

Keras' AdamW adds epsilon before the bias correction, and its `use_ema` overwrites the weights. The guard
needs neither a branch nor a copy: a step whose gradient norm or rate is not finite runs with rate 0 and betas
1 (see `backends.adamw_update`).
"""

import functools
import operator
from collections.abc import Sequence

import keras
from keras import ops

from nepa_keras import backends
from nepa_keras.training.groups import (
    Layerwise,
    check_rate,
    group_table,
    parameter_groups,
)
from nepa_keras.types import Tensor

_LOSS_SCALE_GROWTH_STEPS = 2000

# Arguments of Keras' optimizers that are not supported, and ours that replace them.
_OURS = {
    "use_ema": "ema_decay",
    "clipnorm": "clip_norm",
    "clipvalue": "clip_norm",
    "global_clipnorm": "clip_norm",
    "gradient_accumulation_steps": "accumulation_steps",
}


@keras.saving.register_keras_serializable(package="nepa_keras")
class AdamW(keras.optimizers.Optimizer):
    """AdamW with decoupled weight decay, global clipping, and an average of the weights.

        g <- g * min(1, clip_norm / (|g| + 1e-6))
        w <- w (1 - lr * decay) - lr * m^ / (sqrt(v^) + epsilon)
        e <- w after the first step, then ema_decay * e + (1 - ema_decay) * w

    Args:
        learning_rate: a float or a schedule; a layer-wise schedule gives each block its own rate.
        weight_decay: decay of variables of rank >= 2 (matrices, patch kernel, CLS token).
        beta_1, beta_2, epsilon: constants of Adam; epsilon is added after the bias correction.
        clip_norm: bound of the global gradient norm, or None.
        ema_decay: decay of the weight average, or None for no average.
        accumulation_steps: number of batches whose mean gradient makes one update. A non-finite batch ends
            an accumulation, and the next batch starts another.
        embedding_learning_rate_factor: factor of the embedding's rate; not together with a layer-wise
            schedule, which has its own.

    Example:
        >>> schedule = nepa_keras.training.WarmupCosine(1e-3, total_steps=100)
        >>> model.compile(optimizer=AdamW(schedule, weight_decay=0.05, ema_decay=0.9999))
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-3,
        weight_decay: float = 0.05,
        beta_1: float = 0.9,
        beta_2: float = 0.95,
        epsilon: float = 1e-8,
        clip_norm: float | None = 1.0,
        ema_decay: float | None = None,
        accumulation_steps: int = 1,
        embedding_learning_rate_factor: float = 1.0,
        name: str = "adamw",
        **kwargs,
    ):
        if accumulation_steps < 1:
            raise ValueError(f"accumulation_steps must be at least 1, got {accumulation_steps}.")
        if clip_norm is not None and clip_norm <= 0.0:
            raise ValueError(
                f"clip_norm must be above 0, or None for no clipping; got {clip_norm}."
            )
        if ema_decay is not None and not 0.0 <= ema_decay < 1.0:
            raise ValueError(f"ema_decay must be in [0, 1), got {ema_decay}.")
        if wrong := [argument for argument in _OURS if kwargs.get(argument)]:
            raise ValueError(f"This optimizer has no {wrong[0]}; use {_OURS[wrong[0]]}.")
        if isinstance(learning_rate, int | float):
            check_rate("learning_rate", learning_rate)
        layerwise = learning_rate if isinstance(learning_rate, Layerwise) else None
        if layerwise and embedding_learning_rate_factor != 1.0:
            raise ValueError("A layer-wise schedule already has a rate for the embedding.")
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.layerwise = layerwise
        self.weight_decay = weight_decay
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.clip_norm = clip_norm
        self.ema_decay = ema_decay
        self.accumulation_steps = accumulation_steps
        self.embedding_learning_rate_factor = embedding_learning_rate_factor
        self.loss_scale: keras.Variable | None = None

    def enable_loss_scaling(self, initial: float = 2.0**15) -> None:
        """Scale the loss dynamically, for float16: halve at a skipped step, double after 2000 finite ones."""
        if self.loss_scale is None:
            scale = keras.initializers.Constant(initial)
            self.loss_scale = self.add_variable((), scale, "float32", name="loss_scale")
            self.good_steps = self.add_variable((), "zeros", "int32", name="good_steps")

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self.groups = self._groups(variables)
        self.moments = self.add_optimizer_variables(variables, "moment")
        self.velocities = self.add_optimizer_variables(variables, "velocity")
        self.averages: list[keras.Variable] | None = None
        if self.ema_decay is not None:
            self.averages = self.add_optimizer_variables(variables, "average")
        if self.accumulation_steps > 1:
            self.sums = self.add_optimizer_variables(variables, "gradient_sum")
            self.micro_step = self.add_variable((), "zeros", "int32", name="micro_step")

    @property
    def trainable_variables(self) -> list:
        """Variables that the optimizer was built for, in order."""
        return self._trainable_variables

    def table(self, model: keras.Model) -> str:
        """Format the parameter groups of a model as a table."""
        variables = model.trainable_variables
        frozen = [v for v in model.weights if not any(v is w for w in variables)]
        return group_table(self._groups(variables), variables, self.layerwise, frozen)

    def _groups(self, variables):
        factor = self.embedding_learning_rate_factor
        return parameter_groups(variables, self.weight_decay, factor, self.layerwise)

    def _group_rates(self) -> list:
        """Rate of each group at this step."""
        if self.layerwise is None:
            rate = ops.cast(self.learning_rate, "float32")
            return [rate * group.learning_rate_factor for group in self.groups]
        layers = [group.layer_group for group in self.groups if group.layer_group is not None]
        different = list(dict.fromkeys(layers))
        rates = self.layerwise.rates(self._iterations, different)
        return [rates[different.index(layer)] for layer in layers]

    def ema_values(self) -> list:
        """Return the averaged weights as NumPy arrays, in the order of the trainable variables."""
        assert self.averages is not None, "the optimizer was made without ema_decay"
        return [ops.convert_to_numpy(a) for a in self.averages]

    @property
    def _model_variables_moving_average(self) -> list[keras.Variable]:
        """The averages under the name that `keras.callbacks.SwapEMAWeights` reads."""
        if self.averages is None:
            raise AttributeError(
                "There are no averaged weights; create the optimizer with ema_decay=..."
            )
        return self.averages

    def scale_loss(self, loss: Tensor) -> Tensor:
        return loss if self.loss_scale is None else loss * self.loss_scale

    def apply(
        self, grads: Sequence[Tensor], trainable_variables: Sequence[keras.Variable] | None = None
    ) -> None:
        """Call `apply_guarded`, in the form of `keras.optimizers.Optimizer.apply`."""
        self.apply_guarded(grads, trainable_variables)

    def apply_guarded(
        self,
        gradients: Sequence[Tensor],
        variables: Sequence[keras.Variable] | None = None,
        loss: Tensor | float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Update the variables once; a non-finite step changes nothing.

        Args:
            gradients: gradients of the (scaled) loss, None for variables that it does not depend on.
            variables: default those the optimizer was built for.
            loss: value for the finite check.

        Returns:
            (norm, ok): the global gradient norm before clipping (when accumulating, of the mean over the
            batches so far), and whether norm, loss and rates are finite.
        """
        variables = self._trainable_variables if variables is None else list(variables)
        if not self.built:
            self.build(variables)
        self._check_variables_are_known(variables)
        # A variable without gradient (an unused mask token) stays as it is.
        present = [i for i, g in enumerate(gradients) if g is not None]
        by_index = {self._get_variable_index(variables[i]): gradients[i] for i in present}
        complete = True
        if self.accumulation_steps > 1:
            by_index, complete = self._accumulate(by_index)
        scale = 1.0 if self.loss_scale is None else 1.0 / self.loss_scale
        norm = backends.global_norm(list(by_index.values())) * scale
        rates = self._group_rates()
        ok = ops.isfinite(norm) & ops.isfinite(loss)
        ok = functools.reduce(operator.and_, map(backends.is_rate, rates), ok)
        if self.clip_norm is not None:
            scale = scale * ops.minimum(1.0, self.clip_norm / (norm + 1e-6))
        self._update(by_index, rates, scale, ok & complete)
        if self.accumulation_steps > 1:
            self._end_accumulation(by_index, complete | ~ok)
        self._adapt_loss_scale(ok, complete)
        return norm, ok

    def _update(self, gradients, rates, scale, ok):
        step = ops.cast(self._iterations, "float32") + 1.0
        # Always float32, whatever Keras' floatx.
        keep = ops.cast(self._iterations > 0, "float32") * (self.ema_decay or 0.0)
        for group, rate in zip(self.groups, rates, strict=True):
            members = [i for i in group.indices if i in gradients]
            if not members:
                continue
            backends.adamw_update(
                [self._trainable_variables[i] for i in members],
                [gradients[i] for i in members],
                [self.moments[i] for i in members],
                [self.velocities[i] for i in members],
                None if self.averages is None else [self.averages[i] for i in members],
                learning_rate=rate,
                weight_decay=group.weight_decay,
                beta_1=self.beta_1,
                beta_2=self.beta_2,
                epsilon=self.epsilon,
                step=step,
                gradient_scale=ops.cast(scale, "float32"),
                ok=ok,
                average_keep=keep,
            )
        self._iterations.assign_add(ops.cast(ok, self._iterations.dtype))

    def _accumulate(self, gradients):
        """Add to the sums; return the mean gradients and whether this batch completes them."""
        share = 1.0 / self.accumulation_steps
        for i, gradient in gradients.items():
            self.sums[i].assign(self.sums[i] + ops.cast(gradient, "float32") * share)
        self.micro_step.assign_add(1)
        # Copied: torch's fused kernel scales gradients in place.
        complete = ops.equal(ops.convert_to_tensor(self.micro_step), self.accumulation_steps)
        return {i: ops.copy(self.sums[i]) for i in gradients}, complete

    def _end_accumulation(self, gradients, ended):
        for i in gradients:
            total = ops.convert_to_tensor(self.sums[i])
            self.sums[i].assign(ops.where(ended, ops.zeros_like(total), total))
        self.micro_step.assign(ops.where(ended, 0, ops.convert_to_tensor(self.micro_step)))

    def _adapt_loss_scale(self, ok, complete):
        if self.loss_scale is None:
            return
        good = ops.where(ok, self.good_steps + 1, 0)
        # All batches of an accumulation must have the same scale.
        grow = (good >= _LOSS_SCALE_GROWTH_STEPS) & complete
        factor = ops.cast(ops.where(ok, ops.where(grow, 2.0, 1.0), 0.5), "float32")
        self.loss_scale.assign(ops.maximum(self.loss_scale * factor, 1.0))
        self.good_steps.assign(ops.where(grow, 0, good))

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "weight_decay": self.weight_decay,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "clip_norm": self.clip_norm,
            "ema_decay": self.ema_decay,
            "accumulation_steps": self.accumulation_steps,
            "embedding_learning_rate_factor": self.embedding_learning_rate_factor,
        }


adamw = AdamW
