"""Many devices on JAX: `keras.distribution` over one mesh, processes joined by `jax.distributed`."""

import os
import re
from contextlib import contextmanager
from importlib.util import find_spec

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils

from nepa_keras.backends.jax import target

_DATA, _SHARDS = "batch", "shards"  # axes of the mesh
_LONGEST_EVALUATION = 24 * 3600  # seconds that a process waits for the others before it exits


def start_distribution(kind: str, mesh: tuple[int, int] | None) -> tuple[int, int, int]:
    """See `nepa_keras.distribute`; return (rank, number of processes, number of devices)."""
    _join_processes()
    devices = target.devices()
    place = jax.process_index(), jax.process_count(), len(devices)
    if kind == "auto":
        kind = "data" if len(devices) > 1 else "none"
    if kind == "data":
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False)
        )
    elif kind == "fsdp":
        keras.distribution.set_distribution(_sharded(mesh, devices))
    elif place[1] > 1:
        raise ValueError(
            f"--distribute=none, but {place[1]} processes were started; start one, or use --distribute=data."
        )
    else:
        place = 0, 1, 1
    return place


def _join_processes() -> None:
    """Join the processes described by the environment: JAX_* variables, Slurm, Open MPI, a TPU pod."""
    env = os.environ
    started = any(int(env.get(name, 1)) > 1 for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))
    address = env.get("JAX_COORDINATOR_ADDRESS")
    if jax.distributed.is_initialized() or not (address or started or _has_tpu()):
        return
    count, number = env.get("JAX_NUM_PROCESSES"), env.get("JAX_PROCESS_ID")
    jax.distributed.initialize(
        num_processes=count and int(count),
        process_id=number and int(number),
        shutdown_timeout_seconds=_LONGEST_EVALUATION,
    )


def _has_tpu() -> bool:
    return find_spec("libtpu") is not None and os.environ.get("JAX_PLATFORMS") != "cpu"


def _sharded(mesh, devices):
    count = len(devices)
    if mesh is None:
        mesh, axes, split = (count,), [_DATA], _DATA
    else:
        axes, split = [_DATA, _SHARDS], _SHARDS
        if mesh[0] * mesh[1] != count:
            raise ValueError(
                f"--mesh={mesh[0]}x{mesh[1]} needs {mesh[0] * mesh[1]} devices, there are {count}."
            )
    mesh = keras.distribution.DeviceMesh(mesh, axes, devices)
    return _Sharded(mesh, split)


class _OverAllDevices(keras.distribution.TensorLayout):
    """Rows split over all axes of the mesh; Keras' layout uses one axis and repeats rows within a group."""

    @property
    def backend_layout(self):
        mesh = super().backend_layout.mesh
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(mesh.axis_names))


class _Sharded(keras.distribution.ModelParallel):
    """Split each variable of two or more axes along its largest divisible axis; replicate the others.

    Every device has its own images; a weight is gathered from the device group only while it is used.
    Optimizer variables have the layout of their weight, which Keras passes on.
    """

    def __init__(self, mesh, split: str):
        layouts = keras.distribution.LayoutMap(mesh)  # unused: it maps paths, we decide by shape
        super().__init__(layout_map=layouts, batch_dim_name=_DATA, auto_shard_dataset=False)
        self.split = split

    def get_data_layout(self, data_shape):
        layout = super().get_data_layout(data_shape)
        return _OverAllDevices(layout.axes, layout.device_mesh)

    def get_variable_layout(self, variable):
        if variable._layout is not None:
            return variable._layout
        parts = self.device_mesh.shape[self.device_mesh.axis_names.index(self.split)]
        axes: list[str | None] = [None] * len(variable.shape)
        able = [i for i, side in enumerate(variable.shape) if side % parts == 0]
        if len(axes) > 1 and able:
            axes[max(able, key=lambda i: variable.shape[i])] = self.split
        return keras.distribution.TensorLayout(axes, self.device_mesh)


def place_rows(x):
    """Put an array on the distribution's devices: rows are split, or replicated if they cannot be."""
    distribution = keras.distribution.distribution()
    if x is None or distribution is None:
        return jax.device_put(x)
    sharding = distribution.get_data_layout(x.shape).backend_layout
    processes = jax.process_count()
    parts = sharding.num_devices // processes
    if len(x) % parts:
        if processes > 1:
            raise ValueError(
                f"A batch of {len(x)} images cannot be shared by the {parts} devices of a process; make each "
                f"batch a multiple of {parts}, and drop a smaller last batch."
            )
        sharding = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return jax.make_array_from_process_local_data(sharding, x)


@contextmanager
def single_process():
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def is_distributed() -> bool:
    return keras.distribution.distribution() is not None


def is_lost_process(error: BaseException) -> bool:
    # Reading an array raises a ValueError instead, whose text also begins with XLA's status code.
    kinds = (jax.errors.JaxRuntimeError, ValueError)
    return isinstance(error, kinds) and re.match(r"[A-Z_]+: ", str(error)) is not None


def process() -> tuple[int, int]:
    return jax.process_index(), jax.process_count()


def replicas() -> int:
    return 1  # a sharded batch is one array


def mean_over_replicas(x):
    return x


def mean_over_all(x, axis):
    return keras.ops.mean(x, axis)


def global_batch_size(number):
    return number


def local_rows(x):
    return x


def all_gather(number: int) -> list[int]:
    if jax.process_count() == 1:
        return [int(number)]
    return np.ravel(multihost_utils.process_allgather(np.int32(number))).tolist()


def local_value(variable) -> np.ndarray:
    return np.array(variable.value)


def gather_variable(variable) -> np.ndarray:
    value = variable.value
    if value.is_fully_addressable or value.is_fully_replicated:
        return np.array(value)
    return np.array(multihost_utils.process_allgather(value, tiled=True))


def device_name() -> str:
    return jax.devices()[0].device_kind
