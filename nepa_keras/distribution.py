"""Training on many devices: call `nepa_keras.distribute()` before the model is made."""

import re
from typing import NamedTuple

from nepa_keras import backends

KINDS = ("auto", "none", "data", "fsdp")


class Processes(NamedTuple):
    """Number of this process, and counts that data loading and file writing depend on.

    Attributes:
        number: rank of this process; process 0 writes files.
        count: number of processes; each reads its own part of every batch (`AugmentedBatches(shard=...)`).
        devices: number of devices of all processes together.

    Example:
        >>> Processes(number=1, count=2, devices=8).images_of_process(batch_size=256)
        128
    """

    number: int = 0
    count: int = 1  # type: ignore[assignment]  # hides tuple.count, which is useless here
    devices: int = 1

    def images_of_process(self, batch_size: int, flag: str = "--batch_size") -> int:
        """Number of images that this process provides for a batch over all devices.

        Args:
            batch_size: images in a batch over all devices.
            flag: name of the batch size in the error message.

        Raises:
            ValueError: the devices cannot share the batch evenly.
        """
        if batch_size % self.devices:
            raise ValueError(
                f"{flag}={batch_size} counts the images of all {self.devices} devices, so it must be "
                f"a multiple of {self.devices}: use "
                f"{batch_size // self.devices * self.devices or self.devices}."
            )
        return batch_size // self.count


def distribute(kind: str = "auto", mesh: str | None = None) -> Processes:
    """Set up training on all devices of all processes, for the models that are made afterwards.

    Losses, gradient norms and updates are those of the whole batch on one device. Each process is given its
    own part of each batch:

    - JAX: `keras.distribution` over all devices. Processes are found by Slurm, Open MPI or a TPU pod, or by
      JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    - TensorFlow: MirroredStrategy over the GPUs, MultiWorkerMirroredStrategy for the workers of TF_CONFIG,
      TPUStrategy for the TPU of TPU_NAME.
    - PyTorch: DistributedDataParallel, one process per device, started by torchrun.

    Args:
        kind: "auto" is "data" with more than one device or process, else "none".
            "data": each device has all weights and its part of the batch.
            "fsdp": JAX only; weights, averages and optimizer moments are split between devices as well.
            "none": one device.
        mesh: with "fsdp", "4x2" makes 4 groups of 2 devices: each group holds all weights, split between
            its devices, and each of the 8 devices has its own images. Default: one group of all devices.

    Returns:
        `Processes`: rank of this process, number of processes, number of devices.

    Raises:
        ValueError: the backend does not support the kind, or the devices do not fit the mesh.

    Example:
        >>> processes = nepa_keras.distribute()
        >>> batch_size = processes.images_of_process(8)
        >>> batches = data.AugmentedBatches(
        ...     arrays.train_images, batch_size, 28, shard=processes[:2])
        >>> model = nepa_keras.NepaPretrainer.from_preset("nepa_micro_patch7_28", load_weights=False)
    """
    if kind not in KINDS:
        raise ValueError(f"--distribute must be one of {', '.join(KINDS)}, got {kind!r}.")
    sides = None
    if mesh is not None:
        if kind != "fsdp":
            raise ValueError(
                f"--mesh={mesh} is for --distribute=fsdp; leave it out, or add --distribute=fsdp."
            )
        if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", mesh):
            raise ValueError(
                f"--mesh={mesh} must be GROUPSxDEVICES, such as 4x2: 4 groups of 2 devices."
            )
        groups, parts = mesh.split("x")
        sides = (int(groups), int(parts))
    return Processes(*backends.start_distribution(kind, sides))
