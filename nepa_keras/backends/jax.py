"""JAX: everything in one jitted function of the state, XLA fused but for the residual stream."""

import jax
import jax.numpy as jnp
import keras

from nepa_keras.backends.jax_devices import (
    alone,
    is_distributed,
    mean_over_replicas,
    of_all_processes,
    part_of_replica,
    process,
    replicas,
    start_distribution,
    whole_value,
)
from nepa_keras.backends.jax_kernels import attention, barrier, gelu, layer_norm, tuned_for_cpu
from nepa_keras.backends.portable import adamw_update, global_norm, linear, rotate

__all__ = [
    "adamw_update",
    "alone",
    "attention",
    "barrier",
    "default_jit_compile",
    "device_name",
    "fit_input",
    "gelu",
    "global_norm",
    "is_distributed",
    "layer_norm",
    "linear",
    "make_function",
    "mean_over_replicas",
    "of_all_processes",
    "part_of_replica",
    "process",
    "remat",
    "replicas",
    "rotate",
    "start_distribution",
    "test_step",
    "train_step",
    "whole_value",
]


def fit_input(model, batches):
    return batches


def device_name() -> str:
    return jax.devices()[0].device_kind


def default_jit_compile() -> bool:
    return True


def make_function(model, name, keras_make_function, force=False):
    """Keras' own; for training on CPU with a compiler that keeps `barrier`.

    Otherwise a pass removes the barriers before fusion, and the cost of a step grows with the square
    of the depth.
    """
    compiled = model.jit_compile and not model.run_eagerly
    if name != "train_function" or not compiled or not tuned_for_cpu():
        return keras_make_function(force)
    if model.train_function is not None and not force:
        return
    shardings = None
    if keras.distribution.distribution() is not None:
        shardings = (None, model._get_state_sharding_spec())
    step = jax.jit(
        model.train_step,
        donate_argnums=0,
        out_shardings=shardings,
        compiler_options={"xla_disable_hlo_passes": "cse_barrier_expander"},
    )
    model.train_function = model._make_function(step)


def remat(layer, x, **kwargs):
    """`layer(x, **kwargs)`, recomputed in the backward pass.

    The layer runs statelessly inside, or the states of its seed generators would leak out of the
    checkpointed trace.
    """
    seeds = layer.non_trainable_variables

    def run(trainable, non_trainable, x):
        return layer.stateless_call(trainable, non_trainable, x, **kwargs)

    trainable = [v.value for v in layer.trainable_variables]
    y, values = jax.checkpoint(run)(trainable, [v.value for v in seeds], x)
    for seed, value in zip(seeds, values, strict=True):
        seed.assign(value)
    return y


def train_step(model, state, data):
    """One guarded step; returns (logs, state). Interface: `GuardedModel.record_step`."""
    trainable, non_trainable, optimizer_values, metric_values = state
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    gradient_function = jax.value_and_grad(model.compute_loss_and_updates, has_aux=True)
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
    optimizer = model.optimizer
    with keras.StatelessScope(
        state_mapping=list(zip(optimizer.variables, optimizer_values, strict=True))
    ):
        learning_rate = jnp.asarray(optimizer.learning_rate)
    norm, ok, trainable, optimizer_values = _apply(
        optimizer, gradients, trainable, optimizer_values, loss
    )
    statistics = {id(v) for v in model.moving_statistics}
    non_trainable = [
        jnp.where(ok, new, old) if id(v) in statistics else new
        for v, new, old in zip(model.non_trainable_variables, moved, non_trainable, strict=True)
    ]
    with keras.StatelessScope(
        state_mapping=list(zip(model.metrics_variables, metric_values, strict=True))
    ) as scope:
        logs = model.record_step(x, y, y_pred, sample_weight, loss, norm, ok, learning_rate)
    metric_values = [scope.get_current_value(v) for v in model.metrics_variables]
    return logs, (trainable, non_trainable, optimizer_values, metric_values)


def _apply(optimizer, gradients, trainable, optimizer_values, loss):
    if hasattr(optimizer, "apply_guarded"):
        variables = optimizer.trainable_variables
        mapping = list(zip(variables, trainable, strict=True))
        mapping += list(zip(optimizer.variables, optimizer_values, strict=True))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            norm, ok = optimizer.apply_guarded(gradients, variables, loss)
        new_trainable = [scope.get_current_value(v) for v in variables]
        new_values = [scope.get_current_value(v) for v in optimizer.variables]
        return norm, ok, new_trainable, new_values
    norm = global_norm(gradients)
    ok = jnp.isfinite(norm) & jnp.isfinite(loss)
    new_state = optimizer.stateless_apply(optimizer_values, gradients, trainable)
    new_trainable, new_values = jax.tree.map(
        lambda new, old: jnp.where(ok, new, old),
        new_state,
        (list(trainable), list(optimizer_values)),
    )
    return norm, ok, new_trainable, new_values


def test_step(model, keras_test_step, *args):
    return keras_test_step(*args)
