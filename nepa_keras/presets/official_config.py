"""The official `config.json` and the arguments of our models, both ways (SPEC section 3)."""

import keras

from nepa_keras.presets.checkpoint import CheckpointError

PRETRAINING, CLASSIFICATION = "ViTNepaForPreTraining", "ViTNepaForImageClassification"

# Official key -> argument of `NepaBackbone`, where the value is the same.
_ARGUMENTS = {
    "patch_size": "patch_size",
    "hidden_size": "hidden_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "mlp_dim",
    "use_gated_mlp": "gated_mlp",
    "hidden_act": "activation",
    "hidden_dropout_prob": "dropout_rate",
    "attention_probs_dropout_prob": "attention_dropout_rate",
    "layer_norm_eps": "layer_norm_epsilon",
    "rope_theta": "rope_theta",
    "qkv_bias": "qkv_bias",
    "qk_norm": "qk_norm",
    "qk_norm_bias": "qk_norm_bias",
    "qk_norm_affine": "qk_norm_scale",
    "layerscale_value": "layer_scale",
    "drop_path_prob": "drop_path_rate",
    "is_causal": "use_causal_mask",
    "pos_embed_shift": "rope_shift",
    "pos_embed_jitter": "rope_jitter",
    "pos_embed_rescale": "rope_rescale",
}
_INTEGERS = "patch_size hidden_size num_hidden_layers num_attention_heads intermediate_size".split()
_FLAGS = "use_gated_mlp qkv_bias qk_norm qk_norm_bias qk_norm_affine is_causal".split()
_NUMBERS = "hidden_dropout_prob attention_probs_dropout_prob layer_norm_eps rope_theta drop_path_prob".split()
_OPTIONAL_NUMBERS = "layerscale_value pos_embed_shift pos_embed_jitter pos_embed_rescale".split()


def backbone_arguments(config: dict) -> dict:
    """Arguments of `NepaBackbone` for an official configuration.

    Raises:
        CheckpointError: it is of another model, or a key is missing or of an impossible value.
    """
    if config.get("model_type") != "vit_nepa":
        raise CheckpointError(
            f"config.json is of model_type {config.get('model_type')!r}; NEPA's is 'vit_nepa'."
        )
    needed = [*_ARGUMENTS, "image_size", "num_channels"]
    if missing := [key for key in needed if key not in config]:
        raise CheckpointError(f"config.json lacks {', '.join(missing)}.")

    def demand(condition, key, words):
        if not condition:
            raise CheckpointError(f"config.json: {key} must be {words}, is {config[key]!r}.")

    for key in (*_INTEGERS, "num_channels"):
        demand(_is_integer(config[key]), key, "a positive integer")
    for key in _FLAGS:
        demand(isinstance(config[key], bool), key, "true or false")
    for key in _NUMBERS:
        demand(_is_number(config[key]), key, "a number")
    for key in _OPTIONAL_NUMBERS:
        demand(config[key] is None or _is_number(config[key]), key, "a number or null")
    demand(config["hidden_act"] in ("gelu", "silu", "relu"), "hidden_act", "gelu, silu or relu")
    size = config["image_size"]
    size = [size, size] if _is_integer(size) else size
    pair = isinstance(size, list) and len(size) == 2 and all(map(_is_integer, size))
    demand(pair, "image_size", "a side in pixels or [height, width]")
    arguments = {argument: config[key] for key, argument in _ARGUMENTS.items()}
    return arguments | {"image_shape": (*size, config["num_channels"])}


def _is_integer(value) -> bool:
    return type(value) is int and 0 < value < 2**20


def _is_number(value) -> bool:
    return type(value) in (int, float) and 0 <= value < float("inf")


def is_classifier(config: dict) -> bool:
    """Whether an official configuration is of a classifier.

    Raises:
        CheckpointError: its `architectures` is neither.
    """
    architectures = config.get("architectures")
    if architectures not in ([PRETRAINING], [CLASSIFICATION]):
        raise CheckpointError(
            f"config.json: architectures must be [{PRETRAINING!r}] or [{CLASSIFICATION!r}], is "
            f"{architectures!r}."
        )
    return architectures == [CLASSIFICATION]


def class_names(config: dict) -> list[str]:
    """Names of the classes in order, from `id2label`.

    Raises:
        CheckpointError: `id2label` does not name the classes 0 to K - 1.
    """
    try:
        id2label = config["id2label"]
        return [str(id2label[str(i)]) for i in range(len(id2label))]
    except (TypeError, KeyError):
        raise CheckpointError(
            "config.json: id2label must give a name to each class from 0 on."
        ) from None


def official_config(model: keras.Model, backbone: keras.Model, source: dict | None = None) -> dict:
    """The official configuration of a pretrainer or classifier.

    Args:
        model: a `NepaPretrainer`, `NepaImageClassifier` or backbone.
        backbone: that of the model.
        source: configuration the model was imported with; keys that say nothing of the architecture
            are taken from it, in its order.

    Raises:
        ValueError: the backbone has no RoPE, or positions or an embedding of its own.
    """
    if model.official_architecture is None:
        raise ValueError("The official format has no segmenter; keep it with save_to_preset.")
    ours = backbone.get_config()
    if ours["rope_theta"] is None:
        raise ValueError(
            "The official format has no model without RoPE (rope_theta=None); keep it with save_to_preset."
        )
    if ours["embedding"] is not None or ours["rope_extent"] != 1.0:
        raise ValueError(
            "The official format has no other embedding than that of patches (embedding=None) and no other "
            "positions (rope_extent=1); keep the model with save_to_preset."
        )
    height, width, channels = ours["image_shape"]
    activation = ours["activation"] or ("silu" if ours["gated_mlp"] else "gelu")
    derived = {key: ours[argument] for key, argument in _ARGUMENTS.items()}
    derived |= {
        "architectures": [model.official_architecture],
        "model_type": "vit_nepa",
        "hidden_act": activation,
        "image_size": height if height == width else [height, width],
        "num_channels": channels,
    }
    if model.has_head:
        names = model.class_names or [f"LABEL_{i}" for i in range(model.num_classes)]
        derived |= {
            "add_pooling_layer": model.pooling == "mean",
            "is_causal": model.use_causal_mask,
            "id2label": {str(i): name for i, name in enumerate(names)},
            "label2id": {name: i for i, name in enumerate(names)},
        }
    added = {"initializer_range": 0.02, "add_pooling_layer": True}
    kept = source if source is not None else added
    derived |= {key: backbone.variable_dtype for key in ("dtype", "torch_dtype") if key in kept}
    return {**kept, **derived}
