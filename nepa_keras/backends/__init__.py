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
    test_step(model, keras_test_step, *args)  forward, loss, metrics
    fit_input(model, batches)           what `fit` is given in place of `batches`
    device_name()                       what the driver calls the first device
    default_jit_compile()               what `jit_compile="auto"` means

Many devices; each backend has its own engine (BACKEND_devices.py). Those marked * all processes must call.

    start_distribution(kind, mesh)      * see `nepa_keras.distribute`
    is_distributed()                    whether models that are made now are for many devices
    alone()                             context: as if there were this process and one device only
    process()                           (number of this process, of all)
    replicas()                          copies of the model a train step runs on, each with part of the batch
    mean_over_replicas(x)               * in a step: of what each replica has; else x
    part_of_replica(x)                  in a step: of rows for the images of all replicas, this one's; else x
    of_all_processes(number)            * the integers of all processes, in order
    whole_value(variable)               * as NumPy array, also of one that is split between devices
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
default_jit_compile = _backend.default_jit_compile
test_step = _backend.test_step
alone = _backend.alone
is_distributed = _backend.is_distributed
mean_over_replicas = _backend.mean_over_replicas
of_all_processes = _backend.of_all_processes
part_of_replica = _backend.part_of_replica
process = _backend.process
replicas = _backend.replicas
start_distribution = _backend.start_distribution
whole_value = _backend.whole_value

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
