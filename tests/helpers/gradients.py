"""Gradients of any scalar of a model, by each backend's own means and not by the library's train step."""

from collections.abc import Callable

import keras
import numpy as np


def loss_and_gradients(model: keras.Model, loss: Callable) -> tuple[float, list[np.ndarray]]:
    """`loss()` and its gradients, aligned with `model.trainable_variables`."""
    variables = model.trainable_variables
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        def stateless(values):
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return loss()

        value, gradients = jax.jit(jax.value_and_grad(stateless))([v.value for v in variables])
    elif backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss()
        gradients = tape.gradient(value, [v.value for v in variables], unconnected_gradients="zero")
    else:
        import torch

        value = loss()
        gradients = torch.autograd.grad(value, [v.value for v in variables], allow_unused=True)
        gradients = [
            torch.zeros_like(v.value) if g is None else g
            for v, g in zip(variables, gradients, strict=True)
        ]
    return float(keras.ops.convert_to_numpy(value)), [
        keras.ops.convert_to_numpy(g) for g in gradients
    ]
