"""Run by test_plan.py with a backend: what a small model really keeps for the backward pass, and its FLOPs.

KERAS_BACKEND=torch python -m tests.helpers.kept_tensors

Prints in JSON, for both types and MLPs, the bytes of an image that a block keeps and that all else keeps, and
on PyTorch the matrix FLOPs of a forward pass of the backbone of two blocks, as PyTorch counts them.
"""

import json

import keras
import numpy as np

import nepa_keras

PRESET = "nepa_tiny_patch14_224"


def kept_by_torch(model, images) -> int:
    """Bytes of all storages, weights aside, that autograd saved."""
    import torch

    weights = {v.value.untyped_storage().data_ptr() for v in model.trainable_variables}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage  # held, so that no address is used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        images = torch.from_numpy(images)
        model.compute_loss(x=images, y_pred=model(images, training=True))
    return sum(storage.nbytes() for storage in saved.values())


def flops_by_torch(model, images) -> int:
    """FLOPs of matrix products; attention written out, as PyTorch does not count its fused CPU kernel."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model(torch.from_numpy(images))
    return counter.get_total_flops()


def kept_by_jax(model, images) -> int:
    """Bytes of all residuals, arguments aside, of the loss."""
    from jax._src.ad_checkpoint import saved_residuals  # `print_saved_residuals` prints the same

    others = [v.value for v in model.non_trainable_variables]

    def loss(weights):
        outputs, _ = model.stateless_call(weights, others, images, training=True)
        return model.compute_loss(x=images, y_pred=outputs)

    residuals = saved_residuals(loss, [v.value for v in model.trainable_variables])
    arrays = [array for array, origin in residuals if "argument" not in origin]
    return sum(array.size * array.dtype.itemsize for array in arrays)


def measure(**arguments) -> dict:
    """Bytes and FLOPs per block and image: differences of one and two blocks, one and three images."""
    by_torch = keras.backend.backend() == "torch"
    kept = kept_by_torch if by_torch else kept_by_jax
    per_image = []
    for layers in (1, 2):
        backbone = nepa_keras.NepaBackbone.from_preset(
            PRESET, load_weights=False, num_layers=layers, **arguments
        )
        model = nepa_keras.NepaPretrainer(backbone)
        images = np.zeros((3, *backbone.image_shape), "float32")
        per_image.append((kept(model, images) - kept(model, images[:1])) / 2)
    one, two = per_image
    found = {"block": two - one, "ends": 2 * one - two}
    if by_torch:
        found["flops"] = flops_by_torch(backbone, images[:1])
    return {**arguments, **found}


if __name__ == "__main__":
    print(
        json.dumps(
            [
                measure(dtype=dtype, gated_mlp=gated)
                for dtype in ("float32", "mixed_bfloat16")
                for gated in (False, True)
            ]
        )
    )
