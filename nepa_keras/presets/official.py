"""Conversion between our variables and the official tensor names and layouts.

Official linear weights are (out, in), the patch kernel is (out, in, height, width), and q, k, v are three
tensors where we have one. The official code has no segmenter, and no embedding other than for images: such
weights keep our names and layouts.
"""

import re
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from nepa_keras.types import Tensor

_BLOCK_NAMES = {
    "attention_norm/gamma": "layernorm_before.weight",
    "attention_norm/beta": "layernorm_before.bias",
    "attention/q_norm/gamma": "attention.attention.q_norm.weight",
    "attention/q_norm/beta": "attention.attention.q_norm.bias",
    "attention/k_norm/gamma": "attention.attention.k_norm.weight",
    "attention/k_norm/beta": "attention.attention.k_norm.bias",
    "attention/output_dense/kernel": "attention.output.dense.weight",
    "attention/output_dense/bias": "attention.output.dense.bias",
    "attention_scale/scale": "layer_scale.lambda1",
    "mlp_norm/gamma": "layernorm_after.weight",
    "mlp_norm/beta": "layernorm_after.bias",
    "mlp/gate/kernel": "intermediate.gate_proj.weight",
    "mlp/gate/bias": "intermediate.gate_proj.bias",
    "mlp/up/kernel": "intermediate.up_proj.weight",
    "mlp/up/bias": "intermediate.up_proj.bias",
    "mlp/down/kernel": "output.dense.weight",
    "mlp/down/bias": "output.dense.bias",
    "mlp_scale/scale": "output.layer_scale.lambda1",
}
_OTHER_NAMES = {
    "patch_embedding/cls_token": "vit_nepa.embeddings.cls_token",
    "patch_embedding/mask_token": "vit_nepa.embeddings.mask_token",
    "patch_embedding/kernel": "vit_nepa.embeddings.patch_embeddings.projection.weight",
    "patch_embedding/bias": "vit_nepa.embeddings.patch_embeddings.projection.bias",
    "position_embedding/vectors": "vit_nepa.embeddings.position_embeddings",
    "norm/gamma": "vit_nepa.layernorm.weight",
    "norm/beta": "vit_nepa.layernorm.bias",
    "fc_norm/gamma": "fc_norm.weight",
    "fc_norm/beta": "fc_norm.bias",
    "head/kernel": "classifier.weight",
    "head/bias": "classifier.bias",
}


_OURS = re.compile(r"(?:^|/)((?:pyramid|decode_head|auxiliary_head|patch_embedding/[^/]+)/.+)$")


def official_names(path: str) -> list[str]:
    """Return the official names of the variable at `path`; three for the joint q, k, v.

    Raises:
        KeyError: the path is not of a NEPA variable.
    """
    if match := _OURS.search(path):
        return [match[1].replace("/", ".")]
    if match := re.search(r"block_(\d+)/(.+)$", path):
        prefix, rest = f"vit_nepa.encoder.layer.{match[1]}.", match[2]
        if rest.startswith("attention/qkv/"):
            kind = "weight" if rest.endswith("kernel") else "bias"
            return [f"{prefix}attention.attention.{n}.{kind}" for n in ("query", "key", "value")]
        return [prefix + _BLOCK_NAMES[rest]]
    return [_OTHER_NAMES["/".join(path.split("/")[-2:])]]


def official_variables(model: keras.Model) -> list[keras.Variable]:
    """Return the weights of a model that files hold, frozen ones included.

    Random states, adapters (part of the kernels) and layers that only training needs are excluded.
    """
    left_out = ("seed_generator_state", "lora_kernel_a", "lora_kernel_b")
    own = set(model.training_only)
    return [
        v for v in model.weights if not (v.path.endswith(left_out) or own & set(v.path.split("/")))
    ]


def transform_name(path: str) -> str:
    """Describe how an official tensor is converted to the variable at `path`."""
    if _OURS.search(path):
        return "copied"
    if path.endswith("patch_embedding/kernel"):
        return "OIHW -> HWIO"
    words = "transposed" if path.endswith("kernel") else "copied"
    return f"{words}, q|k|v joined" if len(official_names(path)) > 1 else words


def official_views(path: str, value: np.ndarray) -> dict[str, np.ndarray]:
    """Convert the value of the variable at `path` to official tensors, as views if possible."""
    names = official_names(path)
    if _OURS.search(path):
        return {names[0]: value}
    parts = np.split(value, len(names), axis=-1)
    if path.endswith("patch_embedding/kernel"):
        parts = [p.transpose(3, 2, 0, 1) for p in parts]  # HWIO -> OIHW
    elif path.endswith("kernel"):
        parts = [p.T for p in parts]
    return dict(zip(names, parts, strict=True))


def official_shapes(variable: keras.Variable) -> dict[str, tuple[int, ...]]:
    """Return the official names of a variable and the shapes of these tensors."""
    stand_in = np.broadcast_to(np.float32(0), tuple(variable.shape))
    return {name: view.shape for name, view in official_views(variable.path, stand_in).items()}


def value_from_official(path: str, tensors: list[np.ndarray]) -> np.ndarray:
    """Convert official tensors to the value of the variable at `path`."""
    if _OURS.search(path):
        return tensors[0]
    if path.endswith("patch_embedding/kernel"):
        tensors = [t.transpose(2, 3, 1, 0) for t in tensors]
    elif path.endswith("kernel"):
        tensors = [t.T for t in tensors]
    return np.concatenate(tensors, axis=-1) if len(tensors) > 1 else tensors[0]


def official_tensors(model: keras.Model) -> dict[str, np.ndarray]:
    """Return all weights of a model by official name, with adapters merged.

    Raises:
        ValueError: the model is quantized.
    """
    merged, tensors = {}, {}
    for layer in model._flatten_layers():
        if layer.quantization_mode is not None:
            raise ValueError(
                f"The weights of a quantized model are not floats ({layer.path}: {layer.quantization_mode}); "
                'save it with model.save("model.keras").'
            )
        if getattr(layer, "lora_enabled", False):
            merged[f"{layer.path}/kernel"] = layer.merged_kernel()
    for variable in official_variables(model):
        tensors.update(_named(variable, merged.get(variable.path, variable)))
    return tensors


def official_gradients(model: keras.Model, values: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Convert values aligned with `model.trainable_variables` (gradients, averages) to official tensors."""
    tensors = {}
    for variable, value in zip(model.trainable_variables, values, strict=True):
        tensors.update(_named(variable, value))
    return tensors


def _named(variable: keras.Variable, value: Tensor) -> dict[str, np.ndarray]:
    views = official_views(variable.path, np.asarray(ops.convert_to_numpy(value)))
    return {name: np.ascontiguousarray(view) for name, view in views.items()}
