"""Many devices on PyTorch: one process each, started by torchrun; gradients are averaged by DDP."""

import os
from contextlib import contextmanager
from datetime import timedelta

import keras
import numpy as np
import torch
import torch.distributed as dist

_LONGEST_EVALUATION = timedelta(hours=24)  # time that a process waits for the others


class _State:
    """Flags of this process."""

    single_process = False
    in_step = False


def start_distribution(kind: str, mesh: tuple[int, int] | None) -> tuple[int, int, int]:
    """See `nepa_keras.distribute`; return (rank, number of processes, number of devices)."""
    if kind == "fsdp":
        raise ValueError(
            "--distribute=fsdp is for JAX: Keras' variables on PyTorch keep the whole tensors that "
            "fully_shard replaces. Use --distribute=data, or KERAS_BACKEND=jax."
        )
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        return 0, 1, 1
    if kind == "none":
        raise ValueError(
            f"--distribute=none, but {count} processes were started; start one, or use --distribute=data."
        )
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not dist.is_initialized():
        # Both engines: integers of processes are exchanged on the host.
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backend, timeout=_LONGEST_EVALUATION)
    return dist.get_rank(), count, count


def wrap(model):
    """Wrap the model in DDP for training passes; repeated when the model is compiled again."""
    # static_graph: DDP finds the variables without gradient, such as an unused mask token, in step one.
    return torch.nn.parallel.DistributedDataParallel(model, static_graph=True)


@contextmanager
def step():
    """Mark a training step, in which `mean_over_replicas` averages over the processes."""
    _State.in_step = is_distributed()
    try:
        yield
    finally:
        _State.in_step = False


@contextmanager
def single_process():
    before, _State.single_process = _State.single_process, True
    try:
        yield
    finally:
        _State.single_process = before


def is_distributed() -> bool:
    return not _State.single_process and process()[1] > 1


def is_lost_process(error: BaseException) -> bool:
    return type(error) is RuntimeError or isinstance(error, dist.DistError)  # gloo's, NCCL's


def process() -> tuple[int, int]:
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def replicas() -> int:
    return dist.get_world_size() if _State.in_step else 1


def mean_over_replicas(x):
    """Average over processes, with gradient, inside a step; elsewhere return x."""
    if not _State.in_step:
        return x
    return _Mean.apply(x)


class _Mean(torch.autograd.Function):
    """Mean over processes. It is its own adjoint, as losses are averaged in the same way."""

    @staticmethod
    def forward(ctx, x):
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x / dist.get_world_size()

    @staticmethod
    def backward(ctx, gradient):
        return _Mean.forward(ctx, gradient)


def mean_over_all(x, axis):
    """Average over axes and processes, which have equal parts of a batch."""
    return mean_over_replicas(keras.ops.mean(x, axis))


def global_batch_size(number):
    return number * replicas()


def local_rows(x):
    return x.chunk(replicas())[process()[0]] if _State.in_step else x


def all_gather(number: int) -> list[int]:
    if process()[1] == 1:
        return [int(number)]
    numbers = torch.zeros(process()[1], dtype=torch.int64)
    numbers[process()[0]] = number
    dist.all_reduce(numbers)
    return numbers.tolist()


def local_value(variable) -> np.ndarray:
    return gather_variable(variable)


def gather_variable(variable) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(variable))


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
