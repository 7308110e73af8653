"""Flags that several scripts have, each defined once; a script calls the functions it needs."""

from absl import flags
from given_model import MODEL, define_weights_flag
from number_flags import (
    BELOW_ONE,
    FACTOR,
    INSIDE,
    NOT_NEGATIVE,
    POSITIVE,
    RATE,
    SHARE,
    define_number,
)

from nepa_keras.training import TRACKERS

flags.disclaim_key_flags()  # what is defined here belongs to the script that asks for it


def define_data_dir_flag() -> None:
    """The folder that some kinds of --data want beside their name."""
    flags.DEFINE_string(
        "data_dir",
        None,
        "Folder of --data=tfds:NAME, and of fashion_mnist's four .gz files; the folder that the paths in "
        "csv:FILE begin at.",
    )


def define_cache_flags() -> None:
    """The cache of --data over the network; `inputs.check_data` sets it up."""
    flags.DEFINE_string(
        "cache_dir",
        None,
        "Folder that keeps what --data=KIND:https://…, gs://… or s3://… reads, and that runs may share; "
        "default $NEPA_KERAS_CACHE_DIR or ~/.cache/nepa_keras.",
    )
    define_number(
        "cache_size",
        None,
        "GB that the folder of --cache_dir may grow to; what was used longest ago leaves. Default "
        "$NEPA_KERAS_CACHE_SIZE or 10.",
        POSITIVE,
    )


class _RangeParser(flags.ArgumentParser):
    """LOW,HIGH as two numbers."""

    def parse(self, argument):
        try:
            low, high = (float(value) for value in argument.split(","))
        except ValueError:
            low = high = 0.0
        if not low < high:
            raise ValueError("write the lowest and the highest value, such as 0,4095")
        return low, high


class _RangeSerializer(flags.ArgumentSerializer):
    def serialize(self, value):
        return ",".join(map(repr, value))


class _SizeParser(flags.ArgumentParser):
    """SIDE or HEIGHT,WIDTH as two numbers."""

    def parse(self, argument):
        if isinstance(argument, tuple):
            return argument
        sides = str(argument).split(",")
        if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
            raise ValueError("write a side, such as 448, or height and width, such as 224,336")
        return int(sides[0]), int(sides[-1])


class _SizeSerializer(flags.ArgumentSerializer):
    def serialize(self, value):
        height, width = value
        return f"{height}" if height == width else f"{height},{width}"


def define_image_size_flag(
    default: str = "that of --model", what: str = "Size of the images that the model sees"
) -> None:
    """Another image size than that of the weights, for `from_preset(image_size=)`.

    Args:
        default: which size it is without the flag, in words.
        what: has this size.
    """
    flags.DEFINE(
        _SizeParser(),
        "image_size",
        None,
        f"{what}, in pixels: a side (448) or height,width (224,336); a multiple of the patch. Default "
        f"{default}.",
        serializer=_SizeSerializer(),
    )


def define_value_range_flag() -> None:
    """The range of images of more than 8 bits."""
    flags.DEFINE(
        _RangeParser(),
        "value_range",
        None,
        "Lowest and highest value, black and white, in images of more than 8 bits: 0,4095 for 12-bit data in "
        "16-bit files. Default the whole range of their type.",
        serializer=_RangeSerializer(),
    )


def define_dtype_flag() -> None:
    """The precision of the computation; weights stay float32."""
    flags.DEFINE_enum(
        "dtype", "float32", ["float32", "mixed_bfloat16", "mixed_float16"], "Precision."
    )


def define_image_flags() -> None:
    """Flags of a script that reads many images for hours."""
    flags.DEFINE_enum(
        "bad_images",
        "skip",
        ["skip", "fail"],
        "What to do with an image that cannot be read: skip it, or fail at the first.",
    )
    define_number(
        "bad_images_share",
        0.001,
        "Largest fraction of the images that may be bad; beyond it the run stops.",
        SHARE,
    )


def define_crop_flag(default: float | None) -> None:
    """The smallest random crop in training; None is that of the recipes, 0.08."""
    given = "" if default else "; default 0.08"
    define_number(
        "smallest_crop", default, f"Smallest fraction of the image in a crop{given}.", FACTOR
    )


def define_model_flags() -> None:
    """Flags of a script that trains a pretrained model further."""
    flags.DEFINE_string("model", None, f"Pretrained model: {MODEL}")
    define_weights_flag()
    flags.DEFINE_boolean(
        "from_scratch", False, "Start from fresh weights in the architecture of --model."
    )
    define_number("drop_path", 0.1, "Drop-path rate of the last block.", BELOW_ONE)
    define_number(
        "validation_share",
        0.1,
        "Fraction of the training images held out where no validation set is given.",
        INSIDE,
    )


def define_training_flags(
    *, run_dir: str, batch_size: int, beta_2: float, clip_norm: float
) -> None:
    """Flags of a script that trains by `fit_steps`.

    Args:
        run_dir: default folder of a run, in words.
        batch_size, beta_2, clip_norm: defaults.
    """
    # command_line.run puts the recipe's file in its place.
    flags.DEFINE_string(
        "recipe",
        None,
        "Recipe that comes with the library, by its name, such as pretrain_embedded: the flags of "
        "recipes/NAME.flags, which those after it override.",
    )
    define_dtype_flag()
    flags.DEFINE_integer(
        "batch_size", batch_size, "Images per batch, on all devices together.", lower_bound=1
    )
    define_number(
        "weight_decay",
        0.05,
        "Weight decay of variables of rank 2 or more: matrices, kernels, CLS token.",
        NOT_NEGATIVE,
    )
    define_number("beta_2", beta_2, "Second-moment decay of AdamW.", BELOW_ONE)
    define_number(
        "clip_norm", clip_norm, "Bound of the global gradient norm; 0 for none.", NOT_NEGATIVE
    )
    flags.DEFINE_integer(
        "seed",
        1337,
        "Seed of initial weights, order and augmentation.",
        lower_bound=0,
        upper_bound=2**32 - 1,
    )
    flags.DEFINE_boolean(
        "jit_compile",
        None,
        "Compile the step, on PyTorch its blocks; default where it pays: not on PyTorch without a GPU.",
    )
    flags.DEFINE_string("run_dir", None, f"Folder of the run; default {run_dir}.")
    flags.DEFINE_enum(
        "distribute",
        "auto",
        ["auto", "none", "data", "fsdp"],
        "How devices share the work: auto uses all of them, each with its images.",
    )
    flags.DEFINE_string(
        "mesh",
        None,
        "Mesh of --distribute=fsdp: groups that have all weights x devices of a group, as 4x2.",
    )
    flags.DEFINE_integer(
        "keep_last", 2, "Number of the newest checkpoints that stay.", lower_bound=1
    )
    flags.DEFINE_integer(
        "keep_every",
        None,
        "Save a checkpoint at every such step, and keep it.",
        lower_bound=1,
    )
    flags.DEFINE_list(
        "tracker",
        ["tensorboard"],
        f"Where curves, pictures and tables go, too: {', '.join(TRACKERS)}, separated by commas, or none.",
    )


# Flags whose path may change: the data may move, and its fingerprint tells whether it is the same.
OF_A_PLACE = ("data", "data_dir", "validation_data")


def define_recipe_flags(
    *, base_learning_rate: float, warmup_ratio: float, default_length: str
) -> None:
    """Flags of the recipes of pretraining and fine-tuning.

    Args:
        base_learning_rate: default.
        warmup_ratio: default where no --warmup_epochs is given, in words only: see `durations.warmup`.
        default_length: of the training, in words.
    """
    flags.DEFINE_integer(
        "accumulation_steps", 1, "Batches whose mean gradient makes one update.", lower_bound=1
    )
    flags.DEFINE_integer(
        "steps", None, f"Updates; default {default_length}. 0 leaves it to --epochs.", lower_bound=0
    )
    define_number(
        "epochs", None, "Passes over the training images, in place of --steps.", NOT_NEGATIVE
    )
    define_number(
        "base_learning_rate",
        base_learning_rate,
        "Peak learning rate for 256 images; scaled by the effective batch.",
        RATE,
    )
    define_number(
        "warmup_ratio",
        None,
        f"Fraction of the updates that the warm-up takes; default {warmup_ratio:g}.",
        SHARE,
    )
    define_number(
        "warmup_epochs",
        None,
        "Epochs that the warm-up takes, in place of --warmup_ratio.",
        NOT_NEGATIVE,
    )
    define_number("ema_decay", 0.99, "Decay of the weight average (EMA).", BELOW_ONE)
