"""Backend code, and the only place that names a backend: one package each, with the same modules and names.

A function belongs here if `keras.ops` cannot express it or makes it slow. The active Keras backend selects
the package at import; the rest of the library is written once.

kernels.py: computations of layers and optimizer

    scale_pixels(x)                     uint8 to float32 in [-1, 1], bit-identical to `data.normalize`
    linear(x, kernel, bias)             x @ kernel + bias over the last axis
    layer_norm(x, gamma, beta, epsilon) LayerNorm over the last axis
    gelu(x)                             x Phi(x), Phi the normal distribution function
    rotate(x, cos, sin)                 rotary positions
    rotated_norm(x, cos, sin, epsilon)  rotary positions of layer_norm(x)
    attention(q, k, v, ...)             softmax(q k^T * scale) v without storing the probabilities; `bound`
                                        is an upper bound of |q k^T * scale|, or None
    attention_form(length, width, ...)  name of the attention implementation that would be used
    attention_probabilities(q, k, ...)  softmax(q k^T * scale)
    weighted_values(weights, v)         attention weights times values
    optimization_barrier(x)             identity that stops the compiler from fusing across it
    compiled(function)                  the function, compiled separately if the step is not compiled as a
    whole remat(layer, x, **kwargs)           layer(x), recomputed in the backward pass global_norm(gradients)
    L2 norm over a list adamw_update(...)                   one AdamW and EMA step over lists of variables

    platform()                          "cpu", "gpu", "tpu" ... that steps are compiled for; the only
    criterion
                                        for choosing the faster implementation

trainer.py: the training step

    Model                               `keras.Model` that keeps its weights if a pass raises
    Trainer                             `Model` with the guarded step: forward, loss, gradients, finite check,
                                        update, metrics
    default_jit_compile()               value of `jit_compile="auto"`
    keep_compiled(folder)               cache compiled code in a folder, if the backend supports it
    first_batch(batches, number)        the first batch of an iterator, and the iterator from its start
    sync(model)                         copy the training state to the variables during `fit`
    is_rate(rate), LARGEST_RATE         validity of a learning rate (guard.py, all backends)
    GuardedOptimizer                    protocol of an optimizer with its own finite check (guard.py, all)

choice.py: checks, before Keras is imported, that the requested backend exists and is installed

devices.py: many devices. All processes must call the functions marked *.

    device_name()                       the driver's name of the first device
    start_distribution(kind, mesh)      * see `nepa_keras.distribute`
    is_distributed()                    True if models made now are for many devices
    single_process()                    context that behaves as one process with one device
    process()                           (rank, number of processes)
    is_lost_process(error)              True if a collective may raise this error because a process died
    replicas()                          copies of the model in a training step, each with part of the batch
    mean_over_replicas(x)               * in a step: mean over replicas; elsewhere x
    mean_over_all(x, axis)              * in a step: mean over axes that include the images of all replicas
    global_batch_size(number)           * in a step: number of images of all replicas, from the replica's own
    local_rows(x)                       in a step: this replica's part of rows for all images; elsewhere x
    all_gather(number)                  * list of the integers of all processes, by rank
    local_value(variable)               value on this process's first replica, as NumPy array
    gather_variable(variable)           * full value as NumPy array, also of a variable split between devices
"""

from nepa_keras.backends.choice import check_choice, leave_choice_to_command

leave_choice_to_command()
check_choice()

import keras  # noqa: E402  after the check

if keras.backend.backend() == "tensorflow":
    from nepa_keras.backends.tensorflow import *
    from nepa_keras.backends.tensorflow import __all__
elif keras.backend.backend() == "jax":
    from nepa_keras.backends.jax import *
    from nepa_keras.backends.jax import __all__
elif keras.backend.backend() == "torch":
    from nepa_keras.backends.torch import *
    from nepa_keras.backends.torch import __all__
else:
    raise ImportError(
        f"nepa_keras runs on the Keras backends tensorflow, jax and torch, not on "
        f"{keras.backend.backend()!r}; set KERAS_BACKEND to one of the three."
    )
