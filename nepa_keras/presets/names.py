"""Named architectures, as arguments of `NepaBackbone` that differ from its defaults, and released weights."""

from typing import NamedTuple

_TINY = {"hidden_dim": 192, "num_layers": 12, "num_heads": 3, "mlp_dim": 768}
_SMALL = {"hidden_dim": 384, "num_layers": 12, "num_heads": 6, "mlp_dim": 1536}
_LARGE = {"hidden_dim": 1024, "num_layers": 24, "num_heads": 16, "mlp_dim": 4096}

PRESETS: dict[str, dict] = {
    # For 8x8 grey images (digits).
    "nepa_micro_patch2_8": {
        "image_shape": (8, 8, 1),
        "patch_size": 2,
        "hidden_dim": 64,
        "num_layers": 3,
        "num_heads": 4,
        "mlp_dim": 256,
        "layer_scale": 0.1,
    },
    # For 28x28 grey images (Fashion-MNIST); LayerScale 0.1, as it would not grow from 1e-5 in short runs.
    "nepa_micro_patch4_28": {
        "image_shape": (28, 28, 1),
        "patch_size": 4,
        "hidden_dim": 128,
        "num_layers": 4,
        "num_heads": 4,
        "mlp_dim": 512,
        "layer_scale": 0.1,
    },
    # A third of the tokens, to train in minutes on two CPU cores.
    "nepa_micro_patch7_28": {
        "image_shape": (28, 28, 1),
        "patch_size": 7,
        "hidden_dim": 128,
        "num_layers": 4,
        "num_heads": 4,
        "mlp_dim": 512,
        "layer_scale": 0.1,
    },
    "nepa_tiny_patch16_224": {**_TINY, "patch_size": 16},
    "nepa_tiny_patch14_224": {**_TINY, "patch_size": 14},
    "nepa_small_patch14_224": {**_SMALL, "patch_size": 14},
    # The published pretrained models: 85,527,552 and 302,967,808 parameters.
    "nepa_base_patch14_224": {},
    "nepa_large_patch14_224": {**_LARGE, "qk_norm_scale": True},
    # The published fine-tuned models; with 1000 classes 86,299,624 and 303,994,856 parameters.
    "nepa_base_patch14_224_sft": {"qk_norm_scale": True, "use_causal_mask": False},
    "nepa_large_patch14_224_sft": {**_LARGE, "qk_norm_scale": True, "use_causal_mask": False},
}


class Released(NamedTuple):
    """A checkpoint published by the authors.

    Attributes:
        handle: argument of `from_preset`.
        trained: training data and method.
        weights: which files hold the raw and the averaged weights.
    """

    handle: str
    trained: str
    weights: str = "model.safetensors; averaged weights, if published, with ema=True"


_PRETRAINED = "pretrained on ImageNet-1k without labels, causal"
_FINE_TUNED = "then fine-tuned on ImageNet-1k, 1000 classes, bidirectional"
RELEASED: dict[str, Released] = {
    "nepa_base_patch14_224": Released(
        "hf://SixAILab/nepa-base-patch14-224", f"{_PRETRAINED}; QK-norm without scale"
    ),
    "nepa_large_patch14_224": Released(
        "hf://SixAILab/nepa-large-patch14-224", f"{_PRETRAINED}; QK-norm with scale"
    ),
    "nepa_base_patch14_224_sft": Released(
        "hf://SixAILab/nepa-base-patch14-224-sft",
        f"{_PRETRAINED}, {_FINE_TUNED}; QK-norm with scale; 83.75 % top-1",
    ),
    "nepa_large_patch14_224_sft": Released(
        "hf://SixAILab/nepa-large-patch14-224-sft",
        f"{_PRETRAINED}, {_FINE_TUNED}; QK-norm with scale; 85.40 % top-1",
    ),
}


def preset_config(name: str) -> dict:
    """Return the arguments of a named architecture.

    Raises:
        ValueError: there is no preset of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}; choose one of {', '.join(PRESETS)}.")
    return dict(PRESETS[name])
