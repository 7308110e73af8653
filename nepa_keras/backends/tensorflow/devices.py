"""Many devices on TensorFlow: a `tf.distribute` strategy for the whole process."""

import os
from contextlib import contextmanager

import keras
import numpy as np
import tensorflow as tf

_place = (0, 1)  # rank, number of processes


def start_distribution(kind: str, mesh: tuple[int, int] | None) -> tuple[int, int, int]:
    """See `nepa_keras.distribute`; return (rank, number of processes, number of devices)."""
    if kind == "fsdp":
        raise ValueError(
            "--distribute=fsdp is for JAX: tf.distribute keeps all weights on each device. Use "
            "--distribute=data, or KERAS_BACKEND=jax."
        )
    if kind == "none":
        if "TF_CONFIG" in os.environ:
            raise ValueError(
                "--distribute=none, but TF_CONFIG names workers; unset it, or use --distribute=data."
            )
        return 0, 1, 1
    strategy = _strategy()
    if strategy is None:
        return 0, 1, 1
    global _place
    if "TF_CONFIG" in os.environ:
        resolver = strategy.cluster_resolver
        _place = resolver.task_id, len(resolver.cluster_spec().as_dict()["worker"])
    tf.distribute.experimental_set_strategy(strategy)
    return *_place, strategy.num_replicas_in_sync


def _strategy():
    """Strategy for the workers of TF_CONFIG, the chips of a TPU or the GPUs; None for one device."""
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if "TPU_NAME" in os.environ:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(os.environ["TPU_NAME"])
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy(devices) if len(devices) > 1 else None


@contextmanager
def single_process():
    before = tf.distribute.get_strategy() if tf.distribute.has_strategy() else None
    tf.distribute.experimental_set_strategy(None)
    try:
        yield
    finally:
        tf.distribute.experimental_set_strategy(before)


def is_distributed() -> bool:
    return tf.distribute.has_strategy()


def is_lost_process(error: BaseException) -> bool:
    return isinstance(error, tf.errors.OpError)


def process() -> tuple[int, int]:
    return _place


def replicas() -> int:
    inside = not tf.distribute.in_cross_replica_context()
    return tf.distribute.get_strategy().num_replicas_in_sync if inside else 1


def mean_over_replicas(x):
    """Average a tensor, or a list such as gradients, over replicas; outside a step return it unchanged."""
    if replicas() == 1:
        return x
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, x)


def mean_over_all(x, axis):
    """Divide the sum by the count over all replicas, as a replica may have fewer images, or none."""
    if replicas() == 1:
        return tf.reduce_mean(x, axis)
    total = tf.cast(tf.reduce_sum(x, axis), "float32")
    count = tf.cast(tf.reduce_prod(tf.gather(tf.shape(x), axis)), "float32")
    return tf.cast(mean_over_replicas(total) / mean_over_replicas(count), x.dtype)


def global_batch_size(number):
    if replicas() == 1:
        return number
    return mean_over_replicas(tf.cast(number, "float32")) * replicas()


def local_rows(x):
    if replicas() == 1:
        return x
    place = tf.distribute.get_replica_context().replica_id_in_sync_group
    return tf.reshape(x, [replicas(), -1, *x.shape[1:]])[place]


def distribute_batches(dataset):
    """Split the batches of this process between its devices."""
    strategy = tf.distribute.get_strategy()
    here = strategy.num_replicas_in_sync // process()[1]

    def split(*batch):
        return tf.data.Dataset.from_tensor_slices(
            tf.nest.map_structure(
                lambda x: tf.reshape(x, [here, x.shape[0] // here, *x.shape[1:]]), batch
            )
        )

    def parts(context):
        return dataset.flat_map(split) if here > 1 else dataset

    return strategy.distribute_datasets_from_function(parts)


def all_gather(number: int) -> list[int]:
    place, count = _place
    if count == 1:
        return [int(number)]
    mine = tf.one_hot(place, count, on_value=int(number), off_value=0, dtype=tf.int32)
    devices = tf.distribute.get_strategy().num_replicas_in_sync // count
    return (_sum(mine).numpy() // devices).tolist()


@tf.function
def _sum(x):
    strategy = tf.distribute.get_strategy()

    def reduce(x):
        # all_reduce needs a tensor with a device, which arguments of a compiled function lack.
        here = tf.identity(x)
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, here)

    return strategy.experimental_local_results(strategy.run(reduce, args=(x,)))[0]


def local_value(variable) -> np.ndarray:
    # Reading a metric's variable directly would sum over all workers, and wait for them.
    here = tf.distribute.get_strategy().experimental_local_results(variable.value)[0]
    return np.array(here)


def gather_variable(variable) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(variable))


def device_name() -> str:
    accelerators = tf.config.list_physical_devices("GPU") + tf.config.list_physical_devices("TPU")
    if not accelerators:
        return "cpu"
    return tf.config.experimental.get_device_details(accelerators[0]).get("device_name", "unknown")
