"""JAX: the platform that a step is compiled for, by which kernels, step and devices are chosen."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
import keras

# The switch of everything that only XLA on CPU needs.
TUNE_CPU = os.environ.get("NEPA_KERAS_TUNE_CPU", "1") != "0"
_target: list[Sequence] = []  # devices of `compiled_for`, the innermost last


def platform() -> str:
    """Of the devices that a step runs on: "cpu", "gpu" or "tpu"."""
    return _target[-1][0].platform if _target else jax.default_backend()


def devices() -> list:
    """All that a distribution is made of, as Keras takes them."""
    return list(_target[-1]) if _target else keras.distribution.list_devices()


@contextmanager
def compiled_for(devices: Sequence) -> Iterator[None]:
    """Context: what is traced is for these devices, which need not be here.

    Only to lower and compile: nothing can run on the devices of a topology
    (`jax.experimental.topologies`), so models are made within `jax.eval_shape`.
    """
    _target.append(devices)
    try:
        yield
    finally:
        _target.pop()


def tuned_for_cpu() -> bool:
    return TUNE_CPU and platform() == "cpu"
