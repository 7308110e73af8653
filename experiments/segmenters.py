"""Segmentation models of segment.py: flags of the head and of inference, building and loading."""

from absl import flags
from command_line import next_command
from inputs import check_trained_as, check_weights, some_names
from number_flags import NOT_NEGATIVE, POSITIVE, define_number, list_of_numbers

import nepa_keras
from nepa_keras import evaluation

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # key flags of the script that calls, not of this module


def define_flags() -> None:
    """Define the flags of the head and of inference."""
    flags.DEFINE_enum(
        "head", "upernet", ["upernet", "linear"], "Segmentation head: UPerNet or a linear layer."
    )
    flags.DEFINE_integer(
        "channels",
        None,
        "Channels of the UPerNet head; default the width of the backbone.",
        lower_bound=1,
    )
    flags.DEFINE_list(
        "taps",
        None,
        "Numbers of the four blocks, from 0, whose outputs UPerNet reads; default those at a third, a half, "
        "two thirds and the end of the depth.",
    )
    flags.DEFINE_boolean("freeze_backbone", False, "Train only the head, not the backbone.")
    define_number(
        "auxiliary_weight", 0.4, "Weight of the loss of the auxiliary FCN head.", NOT_NEGATIVE
    )
    flags.DEFINE_list(
        "fit",
        [],
        "Bounds LONG,SHORT in pixels: images are resized to fit them, keeping their aspect ratio. Default "
        "images keep their size.",
    )
    flags.DEFINE_integer(
        "window",
        None,
        "Side in pixels of the sliding windows of inference; default --image_size, else the whole image.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "stride",
        None,
        "Stride of the sliding windows in pixels; default two thirds of the window.",
        lower_bound=1,
    )
    flags.DEFINE_list(
        "scales", ["1"], "Scales of test-time augmentation, whose probabilities are averaged."
    )
    flags.DEFINE_boolean(
        "flip", False, "Average the probabilities of images and their mirror images in inference."
    )


def bounds() -> tuple[int, int] | None:
    """Bounds (long side, short side) of --fit, or None."""
    return list_of_numbers("fit", int, POSITIVE, 2) if FLAGS.fit else None


def training_size(source) -> tuple[int, int]:
    """Height and width of the training images, from flags, or for --data=scenes those of the scenes.

    Raises:
        ValueError: no flag gives the size, or two flags contradict each other.
    """
    size, crop = FLAGS.image_size, (FLAGS.crop_size, FLAGS.crop_size)
    if size and FLAGS.crop_size and size != crop:
        raise ValueError(
            f"--image_size={size[0]},{size[1]} and --crop_size={FLAGS.crop_size} both give the size of the "
            "training images; give one of them, or the same value for both."
        )
    if size or FLAGS.crop_size:
        return size or crop
    if not FLAGS.data.startswith("scenes"):
        raise ValueError(
            "--image_size, the size of the training images, is required; give a multiple of the patch size."
        )
    return source.read(0).shape[:2]


def build_segmenter(source, ema: bool) -> nepa_keras.NepaImageSegmenter:
    if not FLAGS.model:
        raise ValueError(
            "--model is required: weights to start from, as a folder, a preset's name or hf://owner/name."
        )
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
    """Inference with the flags --fit, --window, --stride, --scales and --flip."""
    return evaluation.ImageSegmenter(
        segmenter,
        bounds(),
        FLAGS.window or FLAGS.image_size,
        FLAGS.stride,
        list_of_numbers("scales", float, POSITIVE),
        FLAGS.flip,
    )


def check_fits(segmenter, source) -> None:
    """Check that the model has the channels and classes of the source.

    Raises:
        ValueError: it does not.
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
            f"{some_names(names)}. --classes_by_number matches class k of the masks with the model's class k."
        )


def load(ema: bool) -> nepa_keras.NepaImageSegmenter:
    if not FLAGS.model:
        raise ValueError(
            "--model is required: a trained segmenter, as the folder of a run or one of its checkpoints."
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
