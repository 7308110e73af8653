"""JAX: the training step as one jitted function of the state."""

from collections.abc import Callable
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import keras
from keras.src.backend.jax import trainer as keras_trainer

from nepa_keras.backends.compiled_code import folder_of_processor
from nepa_keras.backends.guard import GuardedOptimizer, is_rate
from nepa_keras.backends.jax.devices import place_rows
from nepa_keras.backends.jax.target import tuned_for_cpu
from nepa_keras.backends.portable import global_norm, peek


def _place_batch(data, layouts=None):
    """Put a batch on its devices. Keras' own function gives a smaller last batch the layout of the first."""
    return keras.tree.map_structure(place_rows, data)


keras_trainer._distribute_data = _place_batch

# For training steps on CPU; see `Trainer.make_train_function`.
CPU_COMPILER_OPTIONS: dict[str, str | bool] = {"xla_disable_hlo_passes": "cse_barrier_expander"}


class Model(keras.Model):
    """`keras.Model` that keeps its weights if a pass is interrupted or raises.

    Keras moves the values out of the variables and puts them back only after `evaluate` or `predict` has
    completed.
    """

    def evaluate(self, *args, **kwargs):
        with self._state_put_back():
            return super().evaluate(*args, **kwargs)

    def predict(self, *args, **kwargs):
        with self._state_put_back():
            return super().predict(*args, **kwargs)

    @contextmanager
    def _state_put_back(self):
        self.jax_state_sync()  # in a callback of `fit` the values are those of the last step
        try:
            yield
        finally:
            self.jax_state_sync()
            self._jax_state = None

    def _get_jax_state(self, purge_model_variables=False, **kinds):
        state = super()._get_jax_state(purge_model_variables=purge_model_variables, **kinds)
        if purge_model_variables:
            self._hold(state)
        return state

    def _make_function(self, step_function, **kwargs):
        def held_step(state, data):
            outputs, state = step_function(state, data)
            self._hold(state)
            return outputs, state

        return super()._make_function(held_step, **kwargs)

    def _hold(self, state):
        """Give `jax_state_sync` the newest values; the older ones were donated to the step."""
        trainable, non_trainable, *others = state
        kinds = ("optimizer_variables", "metrics_variables")[2 - len(others) :]
        held = dict(zip(kinds, others, strict=True))
        held |= {"trainable_variables": trainable, "non_trainable_variables": non_trainable}
        self.__dict__["_jax_state"] = held  # set as an attribute, Keras would track it in each step
        self._jax_state_synced = False


class Trainer(Model):
    """`keras.Model` with a guarded training step; `nepa_keras.task.Task` has the methods it calls."""

    def make_train_function(self, force=False):
        """Create the training function; on CPU with a compiler that keeps `optimization_barrier`.

        Otherwise an XLA pass removes the barriers before fusion, and the time of a step grows with the square
        of the depth.
        """
        compiled = self.jit_compile and not self.run_eagerly
        if not compiled or not tuned_for_cpu():
            super().make_train_function(force)
        elif self.train_function is None or force:
            shardings = None
            if keras.distribution.distribution() is not None:
                shardings = (None, self._get_state_sharding_spec())
            step = jax.jit(
                self.train_step,
                donate_argnums=0,
                out_shardings=shardings,
                compiler_options=CPU_COMPILER_OPTIONS,
            )
            self.train_function: Callable = self._make_function(step)

    def train_step(self, state, data):
        """Run one guarded step; return (logs, state)."""
        trainable, non_trainable, optimizer_values, metric_values = state
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        gradient_function = jax.value_and_grad(self.compute_loss_and_updates, has_aux=True)
        (_, (loss, y_pred, moved, metric_values)), gradients = gradient_function(
            trainable,
            non_trainable,
            metric_values,
            x,
            y,
            sample_weight,
            training=True,
            optimizer_variables=optimizer_values,
        )
        optimizer = self.optimizer
        with keras.StatelessScope(
            state_mapping=list(zip(optimizer.variables, optimizer_values, strict=True))
        ):
            learning_rate = jnp.asarray(optimizer.learning_rate)
        norm, ok, trainable, optimizer_values = _apply(
            optimizer, gradients, trainable, optimizer_values, loss, learning_rate
        )
        statistics = {id(v) for v in self.moving_statistics}
        non_trainable = [
            jnp.where(ok, new, old) if id(v) in statistics else new
            for v, new, old in zip(self.non_trainable_variables, moved, non_trainable, strict=True)
        ]
        with keras.StatelessScope(
            state_mapping=list(zip(self.metrics_variables, metric_values, strict=True))
        ) as scope:
            logs = self.record_step(x, y, y_pred, sample_weight, loss, norm, ok, learning_rate)
        metric_values = [scope.get_current_value(v) for v in self.metrics_variables]
        return logs, (trainable, non_trainable, optimizer_values, metric_values)


def _apply(optimizer, gradients, trainable, optimizer_values, loss, learning_rate):
    if isinstance(optimizer, GuardedOptimizer):
        variables = optimizer.trainable_variables
        mapping = list(zip(variables, trainable, strict=True))
        mapping += list(zip(optimizer.variables, optimizer_values, strict=True))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            norm, ok = optimizer.apply_guarded(gradients, variables, loss)
        new_trainable = [scope.get_current_value(v) for v in variables]
        new_values = [scope.get_current_value(v) for v in optimizer.variables]
        return norm, ok, new_trainable, new_values
    norm = global_norm(gradients)
    ok = jnp.isfinite(norm) & jnp.isfinite(loss) & is_rate(learning_rate)
    new_state = optimizer.stateless_apply(optimizer_values, gradients, trainable)
    new_trainable, new_values = jax.tree.map(
        lambda new, old: jnp.where(ok, new, old),
        new_state,
        (list(trainable), list(optimizer_values)),
    )
    return norm, ok, new_trainable, new_values


def default_jit_compile() -> bool:
    return True


def keep_compiled(folder) -> None:
    """Cache compiled code in a folder, unless JAX_COMPILATION_CACHE_DIR or JAX's setting names another."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", folder_of_processor(folder))


def sync(model) -> None:
    model.jax_state_sync()


def first_batch(batches, number):
    first, batches = peek(batches)
    return keras.tree.map_structure(_of_this_process, first), batches


def _of_this_process(array):
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        array = array.addressable_data(0)
    return keras.ops.convert_to_numpy(array)
