"""Data of finetune.py: flags, sources of images, augmentation and batches."""

import numpy as np
from absl import flags
from inputs import define_classes_flag, open_labelled, say_range, test_split, with_classes_of_model
from label_flags import define_label_flags, several, source_options
from number_flags import (
    BELOW_ONE,
    MAGNITUDE,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    define_number,
    list_of_numbers,
)
from shared_flags import (
    define_cache_flags,
    define_crop_flag,
    define_data_dir_flag,
    define_value_range_flag,
)

from nepa_keras import data, evaluation

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # key flags of the script that calls, not of this module


def define_flags() -> None:
    """Define the flags of labelled images, preprocessing and augmentation."""
    flags.DEFINE_string(
        "data",
        "embedded",
        "Labelled images to train on, such as folder:PATH with a folder for each class; the same kinds as "
        "for --data of pretrain.py.",
    )
    define_cache_flags()
    define_data_dir_flag()
    define_label_flags(several=True)
    define_value_range_flag()
    define_classes_flag()
    flags.DEFINE_string(
        "validation_data",
        None,
        "Labelled images for validation, as for --data; default a part of the training images "
        "(--validation_share).",
    )
    flags.DEFINE_string(
        "validation_split", None, "Split of --validation_data to use; default its test split."
    )
    flags.DEFINE_integer(
        "num_labels",
        None,
        "Number of labelled images to train on, equally many of each class; default all.",
        lower_bound=1,
    )
    flags.DEFINE_list(
        "resize_to",
        [],
        "Size in pixels to which evaluation images are resized before the centre crop: shorter side, or "
        "height,width. Default the size of the model's input.",
    )
    flags.DEFINE_enum(
        "augmentation",
        "recipe",
        ["recipe", "keras_cv", "none"],
        "Augmentation of training images: recipe uses the library's operations, keras_cv those of KerasCV, "
        "none only resizes.",
    )
    define_crop_flag(0.08)
    flags.DEFINE_integer(
        "rand_augment", 2, "Number of RandAugment operations per image; 0 for none.", lower_bound=0
    )
    define_number("magnitude", 9.0, "Magnitude of RandAugment, from 0 to 10.", MAGNITUDE)
    define_number(
        "magnitude_std", 0.5, "Standard deviation of the RandAugment magnitude.", MAGNITUDE
    )
    define_number("erasing", 0.25, "Probability of random erasing per image.", SHARE)
    define_number(
        "mixup", 0.8, "Parameter alpha of mixup's beta distribution; 0 for no mixup.", NOT_NEGATIVE
    )
    define_number(
        "cutmix",
        1.0,
        "Parameter alpha of CutMix's beta distribution; 0 for no CutMix.",
        NOT_NEGATIVE,
    )
    define_number(
        "switch_probability",
        0.5,
        "Probability that a batch gets CutMix instead of mixup, if both are on.",
        SHARE,
    )
    define_number(
        "label_smoothing",
        0.1,
        "Fraction of each target spread evenly over all classes (label smoothing).",
        BELOW_ONE,
    )
    flags.DEFINE_enum(
        "interpolation",
        "bicubic",
        ["bilinear", "bicubic"],
        "Interpolation used to resize images in training and evaluation.",
    )


def open_data() -> tuple[data.ImageSource, data.ImageSource]:
    """Open the labelled images for training and for validation.

    Raises:
        ValueError: flags contradict each other or do not fit the images.
    """
    if several() and FLAGS.num_labels:
        raise ValueError(
            "--num_labels takes equally many images of each class, which --multi_label does not define; "
            "leave one of them out."
        )
    if several() and FLAGS.augmentation == "keras_cv":
        raise ValueError(
            "--augmentation=keras_cv supports one class per image only; leave out --multi_label."
        )
    data_of_flags = FLAGS.data, FLAGS.validation_data
    options = source_options(*data_of_flags)
    source = open_labelled("--data", FLAGS.data, "train", **options)
    say_range(source, FLAGS.value_range)
    if FLAGS.validation_data:
        split = FLAGS.validation_split or test_split(FLAGS.validation_data)
        validation = open_labelled(
            "--validation_data",
            FLAGS.validation_data,
            split,
            **source_options(*reversed(data_of_flags)),
        )
    else:
        train, rest = data.held_out(source.labels, FLAGS.validation_share, FLAGS.seed)
        source, validation = data.SubsetSource(source, train), data.SubsetSource(source, rest)
    if FLAGS.num_labels:
        chosen = evaluation.class_balanced_subset(source.labels, FLAGS.num_labels, FLAGS.seed)
        source = data.SubsetSource(source, np.sort(chosen))
    return source, validation


def number_of_classes(source, validation) -> int:
    if source.class_names:
        return len(source.class_names)
    if source.multi_label:
        return source.labels.shape[1]
    return int(max(source.labels.max(), validation.labels.max())) + 1


def number_as_in_training(validation, source, classes: int):
    """Renumber the labels of the validation images to the classes of the training images.

    Raises:
        ValueError: the classes do not match.
    """
    if not FLAGS.validation_data:
        return validation
    return with_classes_of_model(
        "--validation_data",
        FLAGS.validation_data,
        validation,
        source.class_names,
        classes,
        FLAGS.classes_by_number,
    )


def build_converter(image_shape) -> data.NepaImageConverter:
    """Converter that prepares images for evaluation; saved with the weights."""
    resize_to = list_of_numbers("resize_to", int, POSITIVE) or None
    if resize_to and len(resize_to) == 1:
        (resize_to,) = resize_to
    *size, channels = image_shape
    return data.NepaImageConverter(
        tuple(size),
        resize_to,
        FLAGS.interpolation,
        channels=channels,
        value_range=FLAGS.value_range,
    )


def build_batches(source, model, bad_images: data.BadImages, processes) -> tuple:
    """Batches of training images, and a function from a step to the endless stream of batches after it."""
    crop = data.RandomResizedCrop(
        area=(FLAGS.smallest_crop, 1.0), interpolation=FLAGS.interpolation
    )
    augment = erasing = None
    if FLAGS.rand_augment:
        augment = data.RandAugment(FLAGS.rand_augment, FLAGS.magnitude, FLAGS.magnitude_std)
    if FLAGS.erasing:
        erasing = data.RandomErasing(FLAGS.erasing)
    mix = data.MixupCutmix(
        model.num_classes,
        0.0 if FLAGS.augmentation == "none" else FLAGS.mixup,
        0.0 if FLAGS.augmentation == "none" else FLAGS.cutmix,
        FLAGS.switch_probability,
        FLAGS.label_smoothing,
    )
    transform = {
        "recipe": lambda: data.FinetuningTransform(crop, augment, erasing),
        "keras_cv": lambda: crop,
        "none": lambda: data.Resize(FLAGS.interpolation),
    }[FLAGS.augmentation]()
    *size, channels = model.backbone.image_shape
    batches = data.AugmentedBatches(
        source,
        processes.images_of_process(min(FLAGS.batch_size, len(source))),
        tuple(size),
        shard=processes[:2],
        seed=FLAGS.seed,
        labels=source.labels,
        transform=transform,
        mix=None if FLAGS.augmentation == "keras_cv" else mix,
        channels=channels,
        bad_images=bad_images,
        value_range=FLAGS.value_range,
        dtype="float32" if FLAGS.augmentation == "keras_cv" else "uint8",
    )

    def batches_from(step: int):
        batches.seek(step)
        if FLAGS.augmentation == "keras_cv":
            return data.keras_cv_batches(batches, mix, augment, erasing)
        return batches.endless()

    return batches, batches_from
