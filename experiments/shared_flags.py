"""Flags shared by several scripts. A script calls the functions that define the flags it needs."""

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

flags.disclaim_key_flags()  # key flags of the script that calls, not of this module


def define_data_dir_flag() -> None:
    """Define --data_dir, the folder that some kinds of --data need in addition to their name."""
    flags.DEFINE_string(
        "data_dir",
        None,
        "Folder of the data set for --data=tfds:NAME, of the four .gz files for --data=fashion_mnist, or to "
        "which the paths in a CSV file are relative for --data=csv:FILE.",
    )


def define_cache_flags() -> None:
    """Define the flags of the cache for --data over the network; `inputs.check_data` sets it up."""
    flags.DEFINE_string(
        "cache_dir",
        None,
        "Folder that caches files read by --data=KIND:https://…, gs://… or s3://…; several runs may share "
        "it. Default $NEPA_KERAS_CACHE_DIR or ~/.cache/nepa_keras.",
    )
    define_number(
        "cache_size",
        None,
        "Largest size of the cache in GB; the least recently used files are deleted. Default "
        "$NEPA_KERAS_CACHE_SIZE or 10.",
        POSITIVE,
    )


class _RangeParser(flags.ArgumentParser):
    """Parser of LOW,HIGH as two numbers."""

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
    """Parser of SIDE or HEIGHT,WIDTH as (height, width)."""

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
    """Define --image_size, for `from_preset(image_size=...)`.

    Args:
        default: size without the flag, in words, for the help text.
        what: meaning of the size, for the help text.
    """
    flags.DEFINE(
        _SizeParser(),
        "image_size",
        None,
        f"{what}, in pixels: one side (448) or height,width (224,336), multiples of the patch size. Default "
        f"{default}.",
        serializer=_SizeSerializer(),
    )


def define_value_range_flag() -> None:
    """Define --value_range, the range of values in images of more than 8 bits."""
    flags.DEFINE(
        _RangeParser(),
        "value_range",
        None,
        "Values that mean black and white in images of more than 8 bits, such as 0,4095 for 12-bit data in "
        "16-bit files. Default the full range of the data type.",
        serializer=_RangeSerializer(),
    )


def define_dtype_flag() -> None:
    """Define --dtype, the precision of the computation; weights stay float32."""
    flags.DEFINE_enum(
        "dtype",
        "float32",
        ["float32", "mixed_bfloat16", "mixed_float16"],
        "Precision of the computation; weights are always float32.",
    )


def define_image_flags() -> None:
    """Define the flags that say what to do with unreadable images."""
    flags.DEFINE_enum(
        "bad_images",
        "skip",
        ["skip", "fail"],
        "Treatment of images that cannot be read: skip them, or fail at the first one.",
    )
    define_number(
        "bad_images_share",
        0.001,
        "Largest fraction of unreadable images that is skipped; beyond it the script stops.",
        SHARE,
    )


def define_crop_flag(default: float | None) -> None:
    """Define --smallest_crop; a default of None stands for 0.08, the value of the recipes."""
    given = "" if default else " Default 0.08."
    define_number(
        "smallest_crop",
        default,
        f"Smallest area of a random crop, as a fraction of the image.{given}",
        FACTOR,
    )


def define_model_flags() -> None:
    """Define the flags of a script that trains a pretrained model further."""
    flags.DEFINE_string("model", None, f"Pretrained model: {MODEL}")
    define_weights_flag()
    flags.DEFINE_boolean(
        "from_scratch", False, "Train the architecture of --model from random initial weights."
    )
    define_number(
        "drop_path", 0.1, "Drop-path rate of the last block; it rises linearly from 0.", BELOW_ONE
    )
    define_number(
        "validation_share",
        0.1,
        "Fraction of the training images held out for validation if no validation data is given.",
        INSIDE,
    )


def define_training_flags(
    *, run_dir: str, batch_size: int, beta_2: float, clip_norm: float
) -> None:
    """Define the flags of a script that trains by `fit_steps`.

    Args:
        run_dir: default of --run_dir, in words, for the help text.
        batch_size, beta_2, clip_norm: defaults of these flags.
    """
    # command_line.run replaces it by --flagfile.
    flags.DEFINE_string(
        "recipe",
        None,
        "Name of a recipe of the library, such as pretrain_embedded: sets the flags in recipes/NAME.flags. "
        "Flags after it override those of the recipe.",
    )
    define_dtype_flag()
    flags.DEFINE_integer(
        "batch_size", batch_size, "Images per batch, over all devices together.", lower_bound=1
    )
    define_number(
        "weight_decay",
        0.05,
        "Weight decay of variables of rank 2 or more: matrices, kernels and the CLS token.",
        NOT_NEGATIVE,
    )
    define_number("beta_2", beta_2, "Decay rate of the second moment in AdamW.", BELOW_ONE)
    define_number(
        "clip_norm",
        clip_norm,
        "Largest global gradient norm; larger gradients are scaled down to it. 0 switches clipping off.",
        NOT_NEGATIVE,
    )
    flags.DEFINE_integer(
        "seed",
        1337,
        "Seed of the initial weights, the order of images and the augmentation.",
        lower_bound=0,
        upper_bound=2**32 - 1,
    )
    flags.DEFINE_boolean(
        "jit_compile",
        None,
        "Compile the training step (on PyTorch each block). Default true, except on PyTorch without a GPU.",
    )
    flags.DEFINE_string(
        "run_dir",
        None,
        f"Folder of the run; one that holds an unfinished run resumes it. Default {run_dir}.",
    )
    flags.DEFINE_enum(
        "distribute",
        "auto",
        ["auto", "none", "data", "fsdp"],
        "Distribution over devices: none uses one device, data replicates the model on all of them, fsdp "
        "also shards its weights, auto is data if there are several devices.",
    )
    flags.DEFINE_string(
        "mesh",
        None,
        "Device mesh of --distribute=fsdp as REPLICASxSHARDS: 4x2 is 4 replicas of the weights, each sharded "
        "over 2 devices.",
    )
    flags.DEFINE_integer("keep_last", 2, "Number of newest checkpoints to keep.", lower_bound=1)
    flags.DEFINE_integer(
        "keep_every",
        None,
        "Interval in steps at which checkpoints are saved and kept for good; default none are.",
        lower_bound=1,
    )
    flags.DEFINE_list(
        "tracker",
        ["tensorboard"],
        f"Experiment trackers that receive curves, pictures and tables: {', '.join(TRACKERS)}, separated by "
        "commas, or none.",
    )


# Flags whose path may change when a run resumes: data may move, and its fingerprint shows it is the same.
OF_A_PLACE = ("data", "data_dir", "validation_data")


def define_recipe_flags(
    *, base_learning_rate: float, warmup_ratio: float, default_length: str
) -> None:
    """Define the schedule flags of pretraining and fine-tuning.

    Args:
        base_learning_rate: default of the flag.
        warmup_ratio: default for the help text; `durations.updates_and_warmup` applies it.
        default_length: length of the training without flags, in words.
    """
    flags.DEFINE_integer(
        "accumulation_steps",
        1,
        "Batches whose gradients are averaged for one update.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "steps",
        None,
        f"Length of the training in updates; default {default_length}. 0 leaves it to --epochs.",
        lower_bound=0,
    )
    define_number(
        "epochs",
        None,
        "Length of the training in passes over the training images, in place of --steps.",
        NOT_NEGATIVE,
    )
    define_number(
        "base_learning_rate",
        base_learning_rate,
        "Peak learning rate for a batch of 256 images; the rate used is this * effective batch size / 256.",
        RATE,
    )
    define_number(
        "warmup_ratio",
        None,
        f"Length of the warm-up as a fraction of all updates; default {warmup_ratio:g}.",
        SHARE,
    )
    define_number(
        "warmup_epochs",
        None,
        "Length of the warm-up in epochs, in place of --warmup_ratio.",
        NOT_NEGATIVE,
    )
    define_number(
        "ema_decay",
        0.99,
        "Decay per update of the exponential moving average (EMA) of the weights.",
        BELOW_ONE,
    )
