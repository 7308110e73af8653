"""Segmenters of the flags: their head, and how images are segmented with them."""

from absl import flags
from command_line import next_command
from inputs import check_trained_as, check_weights, some_names
from number_flags import NOT_NEGATIVE, POSITIVE, define_number, list_of_numbers

import nepa_keras
from nepa_keras import evaluation

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # key flags of the script that calls, not of this module


def define_flags() -> None:
    """Flags of the head and of inference."""
    flags.DEFINE_enum("head", "upernet", ["upernet", "linear"], "Head on the backbone.")
    flags.DEFINE_integer(
        "channels", None, "Channels of UPerNet; default the backbone's width.", lower_bound=1
    )
    flags.DEFINE_list("taps", None, "Four blocks that UPerNet reads; default by depth.")
    flags.DEFINE_boolean("freeze_backbone", False, "Train the head alone.")
    define_number(
        "auxiliary_weight", 0.4, "Weight of the loss of the auxiliary FCN head.", NOT_NEGATIVE
    )
    flags.DEFINE_list(
        "fit", [], "Bounds LONG,SHORT that images are brought to; default their own size."
    )
    flags.DEFINE_integer(
        "window",
        None,
        "Evaluate through windows of this side; default those of --image_size.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "stride", None, "Stride of the windows; default two thirds.", lower_bound=1
    )
    flags.DEFINE_list("scales", ["1"], "Scales of evaluation; their probabilities are averaged.")
    flags.DEFINE_boolean("flip", False, "Evaluate mirrored images too.")


def bounds() -> tuple[int, int] | None:
    """--fit."""
    return list_of_numbers("fit", int, POSITIVE, 2) if FLAGS.fit else None


def training_size(source) -> tuple[int, int]:
    """Height and width of the training images; of scenes without a flag that of the scenes.

    Raises:
        ValueError: no flag says it, or two do.
    """
    size, crop = FLAGS.image_size, (FLAGS.crop_size, FLAGS.crop_size)
    if size and FLAGS.crop_size and size != crop:
        raise ValueError(
            f"--image_size={size[0]},{size[1]} and --crop_size={FLAGS.crop_size} both give the size of the "
            "training images; give one of them, or both alike."
        )
    if size or FLAGS.crop_size:
        return size or crop
    if not FLAGS.data.startswith("scenes"):
        raise ValueError(
            "--image_size is the size of the training images; give a multiple of the patch."
        )
    return source.read(0).shape[:2]


def build_segmenter(source, ema: bool) -> nepa_keras.NepaImageSegmenter:
    if not FLAGS.model:
        raise ValueError("--model names what to segment with: a folder, a preset's name or hf://…")
    check_weights("--model", FLAGS.model, FLAGS.from_scratch)
    given = {
        "channels": FLAGS.channels,
        "taps": FLAGS.taps and list_of_numbers("taps", int, NOT_NEGATIVE, 4),
    }
    given = {name: value for name, value in given.items() if value}
    return nepa_keras.NepaImageSegmenter.from_preset(
        FLAGS.model,
        load_weights=not FLAGS.from_scratch,
        ema=ema,
        image_size=FLAGS.image_size,
        num_classes=source.num_classes,
        class_names=source.class_names,
        head=FLAGS.head,
        **given,
        freeze_backbone=FLAGS.freeze_backbone,
        auxiliary_weight=FLAGS.auxiliary_weight,
        drop_path_rate=FLAGS.drop_path,
        dtype=FLAGS.dtype,
    )


def image_segmenter(segmenter) -> evaluation.ImageSegmenter:
    """As the flags of evaluation say."""
    return evaluation.ImageSegmenter(
        segmenter,
        bounds(),
        FLAGS.window or FLAGS.image_size,
        FLAGS.stride,
        list_of_numbers("scales", float, POSITIVE),
        FLAGS.flip,
    )


def check_fits(segmenter, source) -> None:
    """That the model is for images and classes such as those of the source.

    Raises:
        ValueError: it is not.
    """
    pairs = {
        "channels": (segmenter.backbone.image_shape[-1], source.channels),
        "classes": (segmenter.num_classes, source.num_classes),
    }
    for name, (ours, theirs) in pairs.items():
        if ours != theirs:
            raise ValueError(
                f"--model={FLAGS.model} has {ours} {name}, --data={FLAGS.data} has {theirs}."
            )
    names = segmenter.class_names
    if names and names != source.class_names and not FLAGS.classes_by_number:
        raise ValueError(
            f"--data={FLAGS.data} has the classes {some_names(source.class_names)}, the model "
            f"{some_names(names)}. --classes_by_number takes class k of the masks for class k of the model."
        )


def load(ema: bool) -> nepa_keras.NepaImageSegmenter:
    if not FLAGS.model:
        raise ValueError(
            "--model names a segmenter: the folder of a run, or one of its checkpoints."
        )
    check_trained_as(
        "--model",
        FLAGS.model,
        nepa_keras.NepaImageSegmenter,
        "segmenter",
        f"make one by {next_command('segment.py', model=FLAGS.model)}",
    )
    return nepa_keras.NepaImageSegmenter.from_preset(
        FLAGS.model, ema=ema, image_size=FLAGS.image_size, dtype=FLAGS.dtype
    )
