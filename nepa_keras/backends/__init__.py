"""The only place that names a backend: a package each, with the same three modules and the same names.

What `keras.ops` cannot express, or expresses slowly, is one function here; the active Keras backend
decides at import which package provides it. Everything else in the library is written once.

kernels.py, what layers and the optimizer compute:

    scale_pixels(x)                     uint8 to float32 in [-1, 1], with the numbers of `data.normalize`
    linear(x, kernel, bias)             (..., D) @ (D, E) + (E,)
    layer_norm(x, gamma, beta, epsilon) over the last axis
    gelu(x)                             x times the normal distribution of x
    rotate(x, cos, sin)                 rotary positions
    rotated_norm(x, cos, sin, epsilon)  those of layer_norm(x)
    attention(q, k, v, ...)             softmax(q k^T * scale) v without keeping the probabilities; no
                                        |q k^T * scale| exceeds `bound`, if one is given
    attention_form(length, width, ...)  which formulation of it runs here, in words
    attention_probabilities(q, k, ...)  that softmax
    weighted_values(weights, v)         and that product
    optimization_barrier(x)             identity that keeps a compiler from fusing across it
    compiled(function)                  the function, compiled by itself where a step is not as a whole
    remat(layer, x, **kwargs)           layer(x), recomputed in the backward pass
    global_norm(gradients)              L2 norm over a list
    adamw_update(...)                   one AdamW + EMA step over lists of variables

    platform()                          that steps are compiled for, "cpu" among others: what is faster on
                                        one is decided by it, and by nothing else

trainer.py, the train step in one function:

    Model                               `keras.Model` whose weights outlive a pass that raises
    Trainer                             a `Model` with a step of forward, loss, gradients, finite check,
                                        update and metrics
    default_jit_compile()               what `jit_compile="auto"` means
    keep_compiled(folder)               keeps what is compiled from now on there, where the backend can
    first_batch(batches, number)        first of the batches of a step function, and the batches again
    sync(model)                         brings the variables up to date inside of `fit`
    is_rate(rate), LARGEST_RATE         whether a learning rate can be meant (guard.py, for all)
    GuardedOptimizer                    protocol of an optimizer with a check of its own (guard.py, for all)

choice.py, for all: which backend is asked for, and whether it is installed.

devices.py, many devices; each backend has its own engine. Those marked * all processes must call.

    device_name()                       what the driver calls the first device
    start_distribution(kind, mesh)      * see `nepa_keras.distribute`
    is_distributed()                    whether models that are made now are for many devices
    single_process()                    context: as if there were this process and one device only
    process()                           (number of this process, of all)
    is_lost_process(error)              whether a collective raises such an error where a process is gone
    replicas()                          copies of the model a train step runs on, each with part of the batch
    mean_over_replicas(x)               * in a step: of what each replica has; else x
    mean_over_all(x, axis)              * in a step: over axes with the images, those of all replicas
    global_batch_size(number)           * in a step: the images of all replicas, where this one has a number
    local_rows(x)                       in a step: of rows for the images of all replicas, this one's; else x
    all_gather(number)                  * the integers of all processes, in order
    local_value(variable)               this process's first replica of it, as NumPy array
    gather_variable(variable)           * as NumPy array, also of one that is split between devices
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
