"""Many devices behind one call: `nepa_keras.distribute()`, before the model is made."""

import re
from typing import NamedTuple

from nepa_keras import backends

KINDS = ("auto", "none", "data", "fsdp")


class Processes(NamedTuple):
    """What the input and the writing of files have to know.

    Attributes:
        number: of this process; number 0 writes.
        count: of all processes; each reads its own part of every batch (`AugmentedBatches(shard=...)`).
        devices: of all processes together.
    """

    number: int = 0
    count: int = 1  # type: ignore[assignment]  # hides the method of tuples, which means nothing here
    devices: int = 1

    def images_of_process(self, batch_size: int, flag: str = "--batch_size") -> int:
        """How many images of a batch over all devices this process makes.

        Raises:
            ValueError: devices cannot share them evenly.
        """
        if batch_size % self.devices:
            raise ValueError(
                f"{flag}={batch_size} is the number of images of all {self.devices} devices, which must "
                f"divide it; {batch_size // self.devices * self.devices or self.devices} would do."
            )
        return batch_size // self.count


def distribute(kind: str = "auto", mesh: str | None = None) -> Processes:
    """Lets the models that are made from now on train on all devices of all processes.

    The batch of all devices has the losses, gradient norms and updates it has on one device. A process is
    given its own part of each batch:

    - JAX: `keras.distribution` over all devices. Several processes are found by Slurm, Open MPI or a TPU pod,
      or by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    - TensorFlow: MirroredStrategy over the GPUs, MultiWorkerMirroredStrategy for the workers of TF_CONFIG,
      TPUStrategy for the TPU of TPU_NAME.
    - PyTorch: DistributedDataParallel, one process a device, started by torchrun.

    Args:
        kind: "auto" is "data" with more than one device or process, else "none".
            "data": weights on each device, each with its part of the batch.
            "fsdp": only on JAX; weights, averages and the optimizer's moments are split between devices too.
            "none": one device.
        mesh: "4x2" with "fsdp" divides the weights between 2 devices, and there are 4 such groups with all of
            them; each of the 8 devices has its own images. Default: weights between all devices.

    Raises:
        ValueError: the backend has no such kind, or the devices do not make up the mesh.

    Example:
        >>> processes = nepa_keras.distribute()
        >>> batches = data.AugmentedBatches(
        ...     images, processes.images_of_process(256), 224, shard=processes[:2])
        >>> model = NepaPretrainer.from_preset("nepa_base_patch14_224", load_weights=False)
    """
    if kind not in KINDS:
        raise ValueError(f"--distribute must be one of {', '.join(KINDS)}, got {kind!r}.")
    sides = None
    if mesh is not None:
        if kind != "fsdp":
            raise ValueError(f"--mesh={mesh} is for --distribute=fsdp; leave it out, or name that.")
        if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", mesh):
            raise ValueError(f"--mesh={mesh} must be like 4x2: groups, devices of a group.")
        groups, parts = mesh.split("x")
        sides = (int(groups), int(parts))
    return Processes(*backends.start_distribution(kind, sides))
