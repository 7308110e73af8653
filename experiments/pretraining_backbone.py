"""Backbone of pretrain.py: a new one of a named architecture, or one with the weights of --model."""

from absl import flags
from given_model import MODEL, GivenModel, define_weights_flag, settle_model
from inputs import check_weights
from number_flags import NOT_NEGATIVE, define_number
from shared_flags import define_image_size_flag

import nepa_keras
from nepa_keras import data

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # key flags of the script that calls, not of this module
PRESETS = {"embedded": "nepa_micro_patch7_28", "fashion_mnist": "nepa_micro_patch4_28"}
PRESETS["digits"] = "nepa_micro_patch2_8"
_OF_ARCHITECTURE = ("layer_scale", "gated_mlp", "qk_norm", "qk_norm_scale", "positions")
# Arguments of the backbone for each value of --positions; RoPE keeps the base (theta) of the preset.
_POSITIONS: dict[str, dict] = {
    "rope": {"position_embedding": None},
    "learned": {"position_embedding": "learned", "rope_theta": None},
    "both": {"position_embedding": "learned"},
}


def define_flags() -> None:
    """Define the flags of the architecture and of the initial weights."""
    flags.DEFINE_string(
        "model", None, f"Weights to continue pretraining from, in place of --preset: {MODEL}"
    )
    define_weights_flag()
    flags.DEFINE_string(
        "preset",
        None,
        "Architecture to train from random initial weights, such as nepa_small_patch14_224. The in-memory "
        "data sets (embedded, digits, fashion_mnist) have a default.",
    )
    define_image_size_flag("that of --model or --preset")
    flags.DEFINE_integer(
        "channels",
        None,
        "Channels of the input images: 3 (colour), 1 (grey), or those of .npy files. Default those of "
        "--model, else 3.",
        lower_bound=1,
    )
    define_number(
        "layer_scale",
        None,
        "Initial value of LayerScale; 0 for no LayerScale. Default that of the preset.",
        NOT_NEGATIVE,
    )
    flags.DEFINE_enum(
        "positions",
        None,
        list(_POSITIONS),
        "Position encoding: rotary (RoPE), learned position embeddings, or both. Default that of the preset.",
    )
    flags.DEFINE_boolean(
        "qk_norm",
        None,
        "Apply LayerNorm to queries and keys in attention (QK-norm); default as in the preset.",
    )
    flags.DEFINE_boolean(
        "gated_mlp",
        None,
        "Use a gated MLP (SwiGLU) of the preset's MLP width in place of GELU; default as in the preset.",
    )
    flags.DEFINE_boolean(
        "qk_norm_scale", None, "Learn a scale in QK-norm; default as in the preset."
    )
    flags.DEFINE_boolean(
        "remat",
        False,
        "Recompute the blocks' activations in the backward pass (gradient checkpointing): less memory, more "
        "time.",
    )


def settle() -> GivenModel:
    """Resolve --model and --channels, so that flags.txt records the values used; return the weights.

    Raises:
        ValueError: as `given_model`.
    """
    if FLAGS.channels is None and not FLAGS.model:
        FLAGS.channels = 3
    return settle_model()


def build(source: data.ImageArrays | data.ImageSource, ema: bool) -> nepa_keras.NepaBackbone:
    """Build the backbone of the flags for the images of --data.

    Args:
        source: images of --data.
        ema: whether to load the averaged weights of --model.

    Raises:
        ValueError: the flags contradict the weights of --model, or as `from_preset`.
    """
    backbone = _continued(ema) if FLAGS.model else _fresh(source)
    channels = backbone.image_shape[-1]
    if isinstance(source, data.ImageArrays) and channels != source.train_images.shape[-1]:
        raise ValueError(
            f"--data={FLAGS.data} has images of {source.train_images.shape[-1]} channels, and "
            f"--model={FLAGS.model} is for {channels}; only images on disk are converted to the model's."
        )
    return backbone


def _training_options() -> dict:
    """Arguments of the backbone that concern training, for new and given weights alike."""
    return {
        "use_causal_mask": FLAGS.causal,
        "use_mask_token": FLAGS.masking_ratio > 0,
        "remat": FLAGS.remat,
        "dtype": FLAGS.dtype,
    }


def _fresh(source) -> nepa_keras.NepaBackbone:
    preset = FLAGS.preset or PRESETS[FLAGS.data]
    shape = nepa_keras.presets.preset_config(preset).get("image_shape", (224, 224, 3))
    in_memory = isinstance(source, data.ImageArrays)
    channels = source.train_images.shape[-1] if in_memory else FLAGS.channels
    return nepa_keras.NepaBackbone.from_preset(
        preset,
        load_weights=False,
        image_shape=(*(FLAGS.image_size or shape[:2]), channels),
        **_training_options(),
        **_architecture(),
    )


def _architecture() -> dict:
    """Arguments of the backbone set by flags of the architecture."""
    given = {name: FLAGS[name].value for name in _OF_ARCHITECTURE}
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("layer_scale") == 0:
        given["layer_scale"] = None
    return given | _POSITIONS.get(given.pop("positions", None), {})


def _architecture_of(backbone: nepa_keras.NepaBackbone) -> dict:
    """Values that the flags of the architecture have for a given backbone."""
    learned, rope = backbone.position_embedding is not None, backbone.rope_theta is not None
    has = {name: getattr(backbone, name, None) for name in _OF_ARCHITECTURE}
    positions = ("both" if rope else "learned") if learned else "rope"
    return {**has, "layer_scale": backbone.layer_scale or 0.0, "positions": positions}


def _continued(ema: bool) -> nepa_keras.NepaBackbone:
    check_weights("--model", FLAGS.model)
    if FLAGS.preset:
        raise ValueError(
            f"--preset={FLAGS.preset} and --model={FLAGS.model} both give the architecture; leave out "
            "--preset (--preset= switches off that of a flag file)."
        )
    backbone = nepa_keras.NepaBackbone.from_preset(
        FLAGS.model,
        ema=ema,
        image_size=FLAGS.image_size,
        drop_path_rate=0.0,  # in place of the rate of a fine-tuned classifier
        **_training_options(),
    )
    has = _architecture_of(backbone)
    has["channels"] = backbone.image_shape[-1]
    for name, theirs in has.items():
        if (value := FLAGS[name].value) not in (None, theirs):
            raise ValueError(
                f"--{name}={value} contradicts --model={FLAGS.model}, which has {name} {theirs}; leave "
                "the flag out."
            )
    return backbone
