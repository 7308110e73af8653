"""JAX: the platform that a step is compiled for, which selects kernels, options and devices."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
import keras

# Enables all workarounds that only XLA on CPU needs.
TUNE_CPU = os.environ.get("NEPA_KERAS_TUNE_CPU", "1") != "0"
_target: list[Sequence] = []  # devices of nested `compiled_for` contexts, innermost last


def platform() -> str:
    """Platform of the devices that steps run on: "cpu", "gpu" or "tpu"."""
    return _target[-1][0].platform if _target else jax.default_backend()


def devices() -> list:
    """All devices for a distribution, as Keras takes them."""
    return list(_target[-1]) if _target else keras.distribution.list_devices()


@contextmanager
def compiled_for(devices: Sequence) -> Iterator[None]:
    """Trace code for these devices, which need not exist on this machine, inside the context.

    For lowering and compiling only: nothing can run on the devices of a topology
    (`jax.experimental.topologies`), so models must be made inside `jax.eval_shape`.
    """
    _target.append(devices)
    try:
        yield
    finally:
        _target.pop()


def tuned_for_cpu() -> bool:
    return TUNE_CPU and platform() == "cpu"
