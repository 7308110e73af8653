"""Task, the base of the trainable models: a backbone with an objective and a guarded training step."""

import functools
import warnings
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from nepa_keras import backends
from nepa_keras.deployment import Deployable, as_batches
from nepa_keras.inputs import check_dtype, examine_images, refuse_probabilities
from nepa_keras.presets import PresetMixin
from nepa_keras.skipped_steps import WatchNonFinite
from nepa_keras.step_metrics import GradientNorm, LastValue, MeanOrNaN, SkippedSteps
from nepa_keras.trainable import check_trainable
from nepa_keras.types import Tensor


def _check_for_low_precision(optimizer: Any, dtype: str) -> None:
    """Refuse Keras' Adam optimizers for 16-bit weights, where their constants round to 0 and 1."""
    kinds = (keras.optimizers.Adam, keras.optimizers.Adamax, keras.optimizers.Nadam)
    if dtype in ("bfloat16", "float16") and isinstance(optimizer, kinds):
        raise ValueError(
            f"Keras' {type(optimizer).__name__} computes in the dtype of the weights, and in {dtype} its "
            f'constants round to 0 and 1; use nepa_keras.training.adamw, or dtype="mixed_{dtype}".'
        )


class Task(PresetMixin, Deployable, backends.Trainer):
    """Base class of the trainable models.

    The training step (`backends/*/trainer.py`) has the same stages on each backend: forward -> loss ->
    gradients -> finite check -> clipping -> update -> metrics. The check runs on the device before the
    update, without host synchronisation. Besides the loss and the model's own metrics, `fit` logs
    gradient_norm (before clipping), learning_rate and skipped_steps (non-finite steps, which change no
    weights).

    Args:
        backbone: the `NepaBackbone`, trained together with the task.
        dtype: dtype policy of the layers around the backbone; default the backbone's.

    Attributes:
        max_skipped_in_a_row: number of consecutive skipped steps after which `fit` raises `NonFiniteError`.
        own_loss: description of a model's built-in loss; None if the loss is given to `compile`.
        takes_metrics: `compile` accepts metrics.
        loss_is_mean_over_images: a replica's loss is the mean over its images; otherwise it is the replica's
            share of the global loss.
        takes_pixels: scale uint8 images to [-1, 1] instead of refusing them.
    """

    max_skipped_in_a_row: float = 20  # infinite: never stop
    causes_of_non_finite: tuple[str, ...] = (
        "images that are not normalised to [-1, 1], or have non-finite values",
        "a learning rate that is too high",
        "float16 precision (use float32 or bfloat16)",
    )
    train_function: Callable | None
    test_function: Callable | None
    predict_function: Callable | None
    own_loss: str | None = None
    takes_metrics: bool = True
    loss_is_mean_over_images: bool = True
    takes_pixels: bool = False

    def __init__(
        self, backbone: keras.Model, dtype: str | keras.DTypePolicy | None = None, **kwargs
    ):
        super().__init__(dtype=dtype or backbone.dtype_policy, **kwargs)
        self.backbone = backbone

    def compile(
        self,
        optimizer: str | dict | keras.optimizers.Optimizer = "rmsprop",
        loss: str | Callable | list | dict | None = None,
        loss_weights: Sequence[float] | dict[str, float] | None = None,
        metrics: Sequence | dict | None = None,
        weighted_metrics: Sequence | dict | None = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        """Call `keras.Model.compile`; `jit_compile="auto"` compiles where that is faster.

        Raises:
            ValueError: the loss takes probabilities (the models return logits), or an argument does not fit a
                model with its own loss or metrics.
        """
        self._check_loss(loss)
        self._refuse_with_own_loss(loss=loss, loss_weights=loss_weights)
        if not self.takes_metrics and (metrics or weighted_metrics):
            raise ValueError(f"{type(self).__name__} reports its own metrics; leave out yours.")
        if any(isinstance(weight, str) for weight in keras.tree.flatten(loss_weights)):
            raise ValueError(
                f"loss_weights must be numbers, got {loss_weights}; pass metrics by name: "
                f"metrics={loss_weights}."
            )
        optimizer = keras.optimizers.get(optimizer)
        _check_for_low_precision(optimizer, self.variable_dtype)
        if jit_compile == "auto":
            jit_compile = backends.default_jit_compile() and not run_eagerly
        if isinstance(optimizer, backends.GuardedOptimizer):
            # The optimizer scales the loss itself: guard and clipping need the unscaled norm.
            auto_scale_loss = False
            if self.dtype_policy.compute_dtype == "float16":
                optimizer.enable_loss_scaling()
        super().compile(
            optimizer=optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )
        self.__dict__["_loss_tracker"] = MeanOrNaN(name="loss")  # in place of Keras' own
        self._tracker.unlock()  # Keras locks quantized models
        self.step_metrics = {
            "gradient_norm": GradientNorm(name="gradient_norm"),
            "learning_rate": LastValue(name="learning_rate"),
            "skipped_steps": SkippedSteps(name="skipped_steps"),
        }

    def _check_loss(self, loss: Any) -> None:
        """Refuse a loss that does not fit the model's outputs."""
        refuse_probabilities(loss)

    def _refuse_with_own_loss(self, **arguments: Any) -> None:
        given = [name for name, value in arguments.items() if value is not None]
        if self.own_loss is not None and given:
            raise ValueError(
                f"{type(self).__name__} has its own loss, in which {self.own_loss}; leave out {given[0]}."
            )

    def compile_from_config(self, config: dict) -> None:
        """Repeat the `compile` of a saved model."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force: bool = False) -> None:
        if force or self.train_function is None:
            check_trainable(self)
        super().make_train_function(force)
        self.train_function = self._examining(self.train_function)

    def make_test_function(self, force: bool = False) -> None:
        super().make_test_function(force)
        self.test_function = self._examining(self.test_function)

    def make_predict_function(self, force: bool = False) -> None:
        super().make_predict_function(force)
        self.predict_function = self._examining(self.predict_function, labelled=False)

    def _examining(self, function: Any, labelled: bool = True) -> Callable:
        """Wrap a Keras step function to check the first batch of each `fit`, `evaluate` or `predict`."""
        self.__dict__["unexamined"] = True  # not as an attribute, which Keras would track
        if getattr(function, "examines", False):
            return function

        def run(*args: Any) -> Any:
            if not self.__dict__.pop("unexamined", False):
                return function(*args)
            *state, batches = args
            first, batches = backends.first_batch(batches, self.steps_per_execution)
            if first is not None:
                x, y, _ = keras.utils.unpack_x_y_sample_weight(first)
                self._warn_once(examine_images(x, self.takes_pixels))
                if labelled and y is not None:
                    self.examine_labels(y)
            return function(*state, batches)

        run.__dict__["examines"] = True
        return run

    def _warn_once(self, sentence: str | None) -> None:
        if sentence is not None and not self.__dict__.get("warned_of_images"):
            self.__dict__["warned_of_images"] = True
            warnings.warn(sentence, stacklevel=2)

    def examine_labels(self, y: np.ndarray) -> None:
        """Check labels on the host before they are used: those of the first batch, or all.

        Raises:
            ValueError: the labels are invalid; see `nepa_keras.inputs`.
        """

    def __call__(self, images: Tensor, *args, **kwargs) -> Any:
        check_dtype(keras.backend.standardize_dtype(images.dtype), self.takes_pixels)
        return super().__call__(images, *args, **kwargs)

    @functools.cached_property  # read in each step
    def moving_statistics(self) -> list[keras.Variable]:
        """Variables that the forward pass updates (BatchNorm statistics); a skipped step restores them."""
        norms = (
            layer
            for layer in self._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization)
        )
        return [v for norm in norms for v in (norm.moving_mean, norm.moving_variance)]

    def record_step(
        self,
        x: Tensor,
        y: Tensor,
        y_pred: Tensor,
        sample_weight: Tensor | None,
        loss: Tensor,
        gradient_norm: Tensor,
        ok: Tensor,
        learning_rate: Tensor,
    ) -> dict[str, Tensor]:
        """Update the metrics after a training step and return the logs; called by the backend's `train_step`.

        Loss, norm and rate are those of all replicas; x, y and y_pred are the replica's own.
        """
        batch_size = backends.global_batch_size(ops.shape(keras.tree.flatten(x)[0])[0])
        finite = ops.isfinite(loss)
        self._loss_tracker.update_state(
            ops.where(finite, loss, 0.0), ops.where(finite, batch_size, 0)
        )
        logs = self.compute_metrics(x, y, y_pred, sample_weight)
        bad = ops.where(finite, float("inf"), float("nan"))
        self.step_metrics["gradient_norm"].update_state(ops.where(ok, gradient_norm, bad))
        self.step_metrics["learning_rate"].update_state(learning_rate)
        self.step_metrics["skipped_steps"].update_state(ok)
        return {**logs, **{name: m.result() for name, m in self.step_metrics.items()}}

    def get_metrics_result(self) -> dict[str, Tensor]:
        """Return the results without the step metrics, which belong to training only."""
        result = super().get_metrics_result()
        return {k: v for k, v in result.items() if k not in self.step_metrics}

    def fit(self, x: Any = None, *args, callbacks: Any = None, **kwargs) -> keras.callbacks.History:
        """Call `keras.Model.fit`; stop after `max_skipped_in_a_row` consecutive non-finite steps.

        Raises:
            NonFiniteError: that many consecutive steps had a non-finite loss or gradient.
            ValueError: images or labels are invalid, such as integer images or labels out of range.
        """
        self._examine_all(*args[:1], **kwargs)
        self._refuse_with_own_loss(class_weight=kwargs.get("class_weight"))
        if isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks.append(WatchNonFinite(self.max_skipped_in_a_row))
        else:
            callbacks = keras.tree.flatten(callbacks) if callbacks else []
            callbacks = [WatchNonFinite(self.max_skipped_in_a_row, callbacks), *callbacks]
        return super().fit(as_batches(x), *args, callbacks=callbacks, **kwargs)

    def evaluate(self, x: Any = None, *args, **kwargs) -> Any:
        """Call `keras.Model.evaluate`; x may also be a generator of arrays.

        Raises:
            ValueError: images or labels are invalid, such as integer images or labels out of range.
        """
        self._examine_all(*args[:1], **kwargs)
        return super().evaluate(as_batches(x), *args, **kwargs)

    def _seeds(self):
        return [v for v in self.non_trainable_variables if v.path.endswith("seed_generator_state")]

    def save_own_variables(self, store: MutableMapping) -> None:
        """Save the random state too, so that training resumed from the file draws the same numbers."""
        super().save_own_variables(store)
        for i, seed in enumerate(self._seeds()):
            store[f"seed_{i}"] = seed

    def load_own_variables(self, store: MutableMapping) -> None:
        """Load the random state if the file has one that fits; otherwise leave it unchanged."""
        seeds = self._seeds()
        if set(store.keys()) == {f"seed_{i}" for i in range(len(seeds))}:
            for i, seed in enumerate(seeds):
                seed.assign(store[f"seed_{i}"])

    def _examine_all(self, y=None, **other):
        """Check all labels in memory: the first invalid one may come in a later batch."""
        if isinstance(y, np.ndarray) and y.ndim < 3:  # pixel masks are too large to check
            self.examine_labels(y)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
        }

    @classmethod
    def from_config(cls, config: dict) -> Self:
        backbone = keras.saving.deserialize_keras_object(config["backbone"])
        return super().from_config({**config, "backbone": backbone})
