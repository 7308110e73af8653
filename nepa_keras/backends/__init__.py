"""The only place that names a backend: one module each, the same names in all three.

What `keras.ops` cannot express, or expresses slowly, is one function here; the active Keras backend
decides at import which module provides it. Everything else in the library is written once.

    linear(x, kernel, bias)             (..., D) @ (D, E) + (E,)
    layer_norm(x, gamma, beta, epsilon) over the last axis
    gelu(x)                             x times the normal distribution of x
    rotate(x, cos, sin)                 rotary positions
    attention(q, k, v, ...)             softmax(q k^T * scale) v without keeping the probabilities
    barrier(x)                          identity that keeps a compiler from fusing across it
    remat(layer, x, **kwargs)           layer(x), recomputed in the backward pass
    global_norm(gradients)              L2 norm over a list
    adamw_update(...)                   one AdamW + EMA step over lists of variables
    make_function(model, name, ...)     what `fit`, `evaluate` or `predict` calls for each batch
    train_step(model, *args)            forward, loss, gradients, guarded update, metrics
    fit_input(batches)                  what `fit` is given in place of `batches`
    device_name()                       what the driver calls the first device
    DEFAULT_JIT_COMPILE                 what `jit_compile="auto"` means
    SYNCHRONIZED_BATCH_NORM             whether Keras' BatchNormalization has to be told to span devices
"""

import keras

if keras.backend.backend() == "tensorflow":
    from nepa_keras.backends import tensorflow as _backend
elif keras.backend.backend() == "jax":
    from nepa_keras.backends import jax as _backend
elif keras.backend.backend() == "torch":
    from nepa_keras.backends import torch as _backend
else:
    raise ImportError(
        f"nepa_keras runs on the Keras backends tensorflow, jax and torch, not on "
        f"{keras.backend.backend()!r}; set KERAS_BACKEND to one of the three."
    )

linear = _backend.linear
layer_norm = _backend.layer_norm
gelu = _backend.gelu
rotate = _backend.rotate
attention = _backend.attention
barrier = _backend.barrier
remat = _backend.remat
global_norm = _backend.global_norm
adamw_update = _backend.adamw_update
make_function = _backend.make_function
train_step = _backend.train_step
device_name = _backend.device_name
fit_input = _backend.fit_input
DEFAULT_JIT_COMPILE = _backend.DEFAULT_JIT_COMPILE
SYNCHRONIZED_BATCH_NORM = _backend.SYNCHRONIZED_BATCH_NORM

__all__ = [
    "DEFAULT_JIT_COMPILE",
    "SYNCHRONIZED_BATCH_NORM",
    "adamw_update",
    "attention",
    "barrier",
    "device_name",
    "fit_input",
    "gelu",
    "global_norm",
    "layer_norm",
    "linear",
    "make_function",
    "remat",
    "rotate",
    "train_step",
]
