"""Our variables under the official tensor names and layouts (SPEC section 3).

Official linear weights are (out, in), the patch kernel is (out, in, height, width), and q, k, v are
three tensors where we keep one.
"""

import re
from pathlib import Path

import numpy as np
from keras import ops

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
    "norm/gamma": "vit_nepa.layernorm.weight",
    "norm/beta": "vit_nepa.layernorm.bias",
    "fc_norm/gamma": "fc_norm.weight",
    "fc_norm/beta": "fc_norm.bias",
    "head/kernel": "classifier.weight",
    "head/bias": "classifier.bias",
}


def official_names(path: str) -> list[str]:
    """Official names of the variable at `path`; three for the joint q, k, v.

    Raises:
        KeyError: the path is of no NEPA variable.
    """
    if match := re.search(r"block_(\d+)/(.+)$", path):
        prefix, rest = f"vit_nepa.encoder.layer.{match[1]}.", match[2]
        if rest.startswith("attention/qkv/"):
            kind = "weight" if rest.endswith("kernel") else "bias"
            return [f"{prefix}attention.attention.{n}.{kind}" for n in ("query", "key", "value")]
        return [prefix + _BLOCK_NAMES[rest]]
    return [_OTHER_NAMES["/".join(path.split("/")[-2:])]]


def _to_official(path: str, value: np.ndarray) -> dict[str, np.ndarray]:
    names = official_names(path)
    parts = np.split(value, len(names), axis=-1)
    if path.endswith("patch_embedding/kernel"):
        parts = [p.transpose(3, 2, 0, 1) for p in parts]  # HWIO -> OIHW
    elif path.endswith("kernel"):
        parts = [p.T for p in parts]
    return {name: np.ascontiguousarray(p) for name, p in zip(names, parts, strict=True)}


def _from_official(path: str, tensors: list[np.ndarray]) -> np.ndarray:
    if path.endswith("patch_embedding/kernel"):
        tensors = [t.transpose(2, 3, 1, 0) for t in tensors]
    elif path.endswith("kernel"):
        tensors = [t.T for t in tensors]
    return np.concatenate(tensors, axis=-1)


def official_tensors(model) -> dict[str, np.ndarray]:
    """All weights of a backbone, pretrainer or classifier under their official names."""
    values = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    return official_gradients(model, values)


def official_gradients(model, values) -> dict[str, np.ndarray]:
    """Values aligned with `model.trainable_variables` (gradients, averages) by official name."""
    tensors = {}
    for variable, value in zip(model.trainable_variables, values, strict=True):
        tensors.update(_to_official(variable.path, np.asarray(ops.convert_to_numpy(value))))
    return tensors


def save_official_tensors(model, path: str | Path) -> None:
    """Writes the weights the model holds as safetensors, under their official names."""
    from safetensors.numpy import save_file

    save_file(official_tensors(model), str(path))


def load_official_tensors(model, tensors: dict[str, np.ndarray]) -> None:
    """Assigns official tensors to a backbone, pretrainer or classifier; all of them, and no others.

    Raises:
        ValueError: a tensor is missing, left over, or of another shape. Nothing is assigned then.
    """
    remaining, planned = dict(tensors), []
    for variable in model.trainable_variables:
        names = official_names(variable.path)
        missing = [n for n in names if n not in remaining]
        if missing:
            raise ValueError(f"The source lacks {', '.join(missing)}, needed for {variable.path}.")
        value = _from_official(variable.path, [np.asarray(remaining.pop(n)) for n in names])
        if value.shape != tuple(variable.shape):
            raise ValueError(
                f"{', '.join(names)}: {variable.path} needs shape {tuple(variable.shape)}, the "
                f"source gives {value.shape}; the configurations differ."
            )
        planned.append((variable, value))
    if remaining:
        raise ValueError(f"The model has no place for {', '.join(sorted(remaining))}.")
    for variable, value in planned:
        variable.assign(value)
