"""Conversion between the official `config.json` and the arguments of our models."""

import warnings
from collections.abc import Mapping, Sequence

import keras

from nepa_keras.presets.checkpoint import CheckpointError

PRETRAINING, CLASSIFICATION = "ViTNepaForPreTraining", "ViTNepaForImageClassification"
_BARE = "ViTNepaModel"  # the backbone alone, as Transformers' AutoModel saves it

# Official key -> argument of `NepaBackbone` with the same value.
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
# An added key: true with learned positions, otherwise omitted; the authors' code has none. The name is that
# of Transformers' BEiT.
_LEARNED_POSITIONS = "use_absolute_position_embeddings"
# Defaults of the authors' configuration class and of its port to Transformers, for keys that a file omits.
# A wrong size is detected by the shapes of the weights.
_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "use_gated_mlp": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 1e-12,
    "rope_theta": 100.0,
    "qkv_bias": True,
    "qk_norm": False,
    "qk_norm_bias": False,
    "qk_norm_affine": False,
    "layerscale_value": 1e-5,
    "drop_path_prob": 0.0,
    "is_causal": True,
    "pos_embed_shift": None,
    "pos_embed_jitter": None,
    "pos_embed_rescale": 2.0,
}
_UNSET = ("architectures", "id2label")  # null if transformers has no value to write
# An optional key of transformers, and its values.
_PROBLEM, _ONE, _SEVERAL = (
    "problem_type",
    "single_label_classification",
    "multi_label_classification",
)
_FEWEST_CLASSES = 2  # default of transformers without id2label
_INTEGERS = "patch_size hidden_size num_hidden_layers num_attention_heads intermediate_size".split()
_FLAGS = "use_gated_mlp qkv_bias qk_norm qk_norm_bias qk_norm_affine is_causal".split()
_NUMBERS = "hidden_dropout_prob attention_probs_dropout_prob layer_norm_eps drop_path_prob".split()
_OPTIONAL_NUMBERS = "layerscale_value pos_embed_shift pos_embed_jitter pos_embed_rescale".split()


def with_defaults(config: dict, shapes: Mapping[str, tuple[int, ...]] | None) -> dict:
    """Complete an official configuration by the keys that it omits.

    Args:
        config: content of the file.
        shapes: shapes of the tensors by name, or None without weights: the head decides whether the model is
            a classifier, and the number of classes.

    Raises:
        CheckpointError: `num_labels` is invalid or differs from the head.
    """
    config = {key: value for key, value in config.items() if value is not None or key not in _UNSET}
    complete = _DEFAULTS | config
    head = None if shapes is None else shapes.get("classifier.weight")
    if "architectures" not in config:
        has_head = {"id2label", "num_labels"} & set(config) if shapes is None else head
        complete["architectures"] = [CLASSIFICATION if has_head else PRETRAINING]
    if complete["architectures"] != [CLASSIFICATION]:
        return complete
    if "add_pooling_layer" not in config:
        complete["add_pooling_layer"] = shapes is None or "fc_norm.weight" in shapes
    if "id2label" not in config:
        in_head = head[0] if head else config.get("num_labels", _FEWEST_CLASSES)
        count = config.get("num_labels", in_head)
        if not _is_integer(count) or count != in_head:
            raise CheckpointError(
                f"config.json: num_labels is {count!r}, but the head of the weights has {in_head} classes."
            )
        complete["id2label"] = {str(i): f"LABEL_{i}" for i in range(count)}
    return complete


def backbone_arguments(config: dict) -> dict:
    """Convert an official configuration, completed by `with_defaults`, to arguments of `NepaBackbone`.

    Raises:
        CheckpointError: it is of another model, or a key has an invalid value.
    """
    if config.get("model_type") != "vit_nepa":
        raise CheckpointError(
            f"config.json is of model_type {config.get('model_type')!r}; NEPA's is 'vit_nepa'."
        )

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
    learned = config.get(_LEARNED_POSITIONS, False)
    demand(isinstance(learned, bool), _LEARNED_POSITIONS, "true or false")
    rotary = config["rope_theta"]
    words = "a number, or null with learned positions"
    demand(_is_number(rotary) or (rotary is None and learned), "rope_theta", words)
    demand(config["hidden_act"] in ("gelu", "silu", "relu"), "hidden_act", "gelu, silu or relu")
    size = config["image_size"]
    size = [size, size] if _is_integer(size) else size
    pair = isinstance(size, list) and len(size) == 2 and all(map(_is_integer, size))
    demand(pair, "image_size", "a side in pixels or [height, width]")
    arguments = {argument: config[key] for key, argument in _ARGUMENTS.items()}
    arguments["position_embedding"] = "learned" if learned else None
    return arguments | {"image_shape": (*size, config["num_channels"])}


def _is_integer(value) -> bool:
    return type(value) is int and 0 < value < 2**20


def _is_number(value) -> bool:
    return type(value) in (int, float) and 0 <= value < float("inf")


def is_classifier(config: dict) -> bool:
    """Tell whether an official configuration describes a classifier.

    Raises:
        CheckpointError: `architectures` names another model.
    """
    architectures = config.get("architectures")
    if architectures not in ([PRETRAINING], [CLASSIFICATION], [_BARE]):
        raise CheckpointError(
            f"config.json: architectures must be [{PRETRAINING!r}], [{CLASSIFICATION!r}] or [{_BARE!r}], is "
            f"{architectures!r}."
        )
    return architectures == [CLASSIFICATION]


def is_multi_label(config: dict) -> bool:
    """Tell whether the configuration of a classifier is for several classes per image."""
    return config.get(_PROBLEM) == _SEVERAL


def is_bare(config: dict) -> bool:
    """Tell whether an official configuration describes a backbone alone."""
    return config.get("architectures") == [_BARE]


def rules(config: dict, backbone: dict) -> set[str]:
    """Return the names of the `load.RULES` that checkpoints of Transformers need.

    Args:
        config: official configuration.
        backbone: arguments of the backbone to load into.
    """
    # Transformers creates the norms of q and k even if qk_norm is false.
    unused = set() if backbone.get("qk_norm", True) else {"drop_qk_norm"}
    return unused | ({"add_prefix"} if is_bare(config) else set())


def class_names(config: dict) -> list[str]:
    """Return the class names in order, from `id2label`.

    Raises:
        CheckpointError: `id2label` does not name the classes 0 to C - 1.
    """
    try:
        id2label = config["id2label"]
        return [str(id2label[str(i)]) for i in range(len(id2label))]
    except (TypeError, KeyError):
        raise CheckpointError(
            "config.json: id2label must give a name to each class from 0 on."
        ) from None


def official_config(
    model: keras.Model,
    backbone: keras.Model,
    source: dict | None = None,
    drop_path_rate: float | None = None,
    class_names: Sequence[str] | None = None,
) -> dict:
    """Create the official configuration of a backbone, pretrainer or classifier.

    Args:
        model: a backbone, `NepaPretrainer` or `NepaImageClassifier`.
        backbone: backbone of the model.
        source: configuration the model was imported with; keys that do not concern the architecture are kept,
            in their order.
        drop_path_rate, class_names: replacements for those of the model.

    Warns:
        UserWarning: the backbone has learned positions, which the authors' code ignores.

    Raises:
        ValueError: the number of class names differs from that of classes, the rate is outside [0, 1), or the
            backbone has no positions, or a RoPE or embedding that the format cannot describe.
    """
    if model.official_architecture is None:
        raise ValueError("The official format has no segmenter; keep it with save_to_preset.")
    ours = backbone.get_config()
    if drop_path_rate is not None:
        if not 0.0 <= drop_path_rate < 1.0:
            raise ValueError(f"drop_path_rate must be in [0, 1), got {drop_path_rate}.")
        ours["drop_path_rate"] = drop_path_rate
    if class_names is not None and len(class_names) != getattr(model, "num_classes", 0):
        raise ValueError(
            f"There are {len(class_names)} class names for {getattr(model, 'num_classes', 0)} classes."
        )
    learned = ours["position_embedding"] is not None
    if ours["rope_theta"] is None and not learned:
        raise ValueError(
            "The official format cannot describe a model without any positions (rope_theta=None, "
            "position_embedding=None); keep it with save_to_preset."
        )
    if learned:
        warnings.warn(
            "The authors' code has no learned positions and will compute other values from this export; "
            "nepa_keras reads it correctly.",
            stacklevel=3,
        )
    if ours["embedding"] is not None or ours["rope_extent"] != 1.0:
        raise ValueError(
            "The official format supports only the patch embedding (embedding=None) and rope_extent=1; keep "
            "the model with save_to_preset."
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
        names = class_names or model.class_names or [f"LABEL_{i}" for i in range(model.num_classes)]
        derived |= {
            "add_pooling_layer": model.pooling == "mean",
            "is_causal": model.use_causal_mask,
            "id2label": {str(i): name for i, name in enumerate(names)},
            "label2id": {name: i for i, name in enumerate(names)},
        }
    added = {"initializer_range": 0.02, "add_pooling_layer": True}
    kept = source if source is not None else added
    multi_label = getattr(model, "multi_label", False)
    if model.has_head and (multi_label or is_multi_label(kept)):
        derived[_PROBLEM] = _SEVERAL if multi_label else _ONE
    if learned or _LEARNED_POSITIONS in kept:
        derived[_LEARNED_POSITIONS] = learned
    derived |= {key: backbone.variable_dtype for key in ("dtype", "torch_dtype") if key in kept}
    return {**kept, **derived}
