r"""Train, evaluate or apply a semantic segmentation model with a NEPA backbone.

    KERAS_BACKEND=jax python experiments/segment.py --model=runs/mine/ema --run_dir=runs/scenes
    KERAS_BACKEND=jax python experiments/segment.py --mode=evaluate --model=runs/scenes/best
    KERAS_BACKEND=jax python experiments/segment.py --mode=predict --model=runs/scenes/best \
        --images=/path/to/pictures --run_dir=runs/predicted
    KERAS_BACKEND=jax python experiments/segment.py \
        --flagfile=experiments/recipes/segment_ade20k_base.flags \
        --model=hf://SixAILab/nepa-base-patch14-224 --data=ade20k:/path/to/ADEChallengeData2016

--model is required. The default data are synthetic scenes of Fashion-MNIST clothes that ship with the
library; training on them takes minutes on two CPU cores. --mode=train prints the mean IoU, mean accuracy and
pixel accuracy on validation images; the run's folder has `best/` and `trained/` (folders for `from_preset`),
`log.csv`, `curves.png`, `examples.png` (image, truth, prediction) and `report.html`. --mode=evaluate prints a
table of scores per class, --mode=predict writes masks and overlays.

--flagfile=RUN_DIR/flags.txt before --mode repeats the preprocessing flags of a training run.
"""

import contextlib
import copy
from pathlib import Path

import before_keras  # noqa: F401
import command_line
import keras
import runs
import segmenters
from absl import flags
from command_line import exit_with_status, require_experiments_extra, user_errors
from given_model import settle_model
from inputs import define_classes_flag, say, say_range, say_sight
from number_flags import FACTOR, POSITIVE, RATE, define_number, list_of_numbers
from progress import shown_source
from shared_flags import (
    define_image_flags,
    define_image_size_flag,
    define_model_flags,
    define_training_flags,
    define_value_range_flag,
)

from nepa_keras import data, evaluation, training, visualization
from nepa_keras.data import segmentation
from nepa_keras.files import printable, replacing

FLAGS = flags.FLAGS
MODES = ("train", "evaluate", "predict")

flags.DEFINE_enum(
    "mode",
    "train",
    MODES,
    "Task: train a model, evaluate it on labelled test images, or predict masks for --images.",
)
define_model_flags()
flags.DEFINE_string(
    "data",
    "scenes",
    "Images and masks: scenes (synthetic, of clothes), scenes:digits, ade20k:PATH, or pairs:PATH with "
    "folders of images and masks.",
)
flags.DEFINE_boolean(
    "reduce_zero_label",
    False,
    "Treat value 0 in the masks of pairs:PATH as unlabelled, and value k as class k - 1.",
)
flags.DEFINE_string("images", None, "Folder of pictures to segment with --mode=predict.")
flags.DEFINE_integer(
    "evaluate_images",
    None,
    "Largest number of images in a validation or evaluation; default all.",
    lower_bound=1,
)
define_image_flags()
define_value_range_flag()
define_classes_flag()

segmenters.define_flags()
define_image_size_flag(
    "--crop_size for training, and whole images for inference",
    "Size of the training crops and of the sliding windows of inference",
)
flags.DEFINE_integer(
    "crop_size",
    None,
    "Side in pixels of the training crops only, in place of --image_size; padded to a multiple of the patch "
    "size.",
    lower_bound=1,
)
flags.DEFINE_list(
    "ratios",
    ["0.5", "2"],
    "Smallest and largest factor of the random scaling of training images, separated by a comma.",
)
flags.DEFINE_boolean(
    "photometric",
    True,
    "Randomly change brightness, contrast, saturation and hue of training images.",
)
define_training_flags(run_dir="runs/segment_MODE_TIME", batch_size=16, beta_2=0.999, clip_norm=0.0)
flags.DEFINE_integer("steps", 600, "Length of the training in updates.", lower_bound=1)
define_number(
    "learning_rate",
    1e-3,
    "Peak learning rate of the heads; not scaled by the batch size.",
    RATE,
)
define_number(
    "layer_decay",
    0.65,
    "Layer-wise learning rate decay: ratio of a block's learning rate to that of the block above.",
    FACTOR,
)
flags.DEFINE_integer("warmup_steps", 60, "Length of the warm-up in updates.", lower_bound=0)
flags.DEFINE_integer(
    "validations", 5, "Approximate number of validations during training.", lower_bound=1
)


def draw_examples(segment, source, path: Path, count: int = 4) -> tuple[list, list[str]]:
    """Draw the first readable images with truth and prediction; return the images and their names.

    Args:
        segment: `ImageSegmenter`.
        source: images and masks.
        path: PNG file to write.
        count: number of images.

    Returns:
        The images, each uint8 (height, width, channels), and the names of their files.
    """
    pairs, names = [], []
    for index in range(len(source)):
        if len(pairs) == count:
            break
        with contextlib.suppress(data.ImageError):
            pairs.append(source.read(index))
            names.append(printable(Path(source.name(index)).name))
    images, labels = [x[..., :-1] for x in pairs], [x[..., -1] for x in pairs]
    predictions = [segment.labels(image) for image in images]
    visualization.plot_segmentation(images, labels, predictions, source.class_names, path, names)
    return images, names


def train(run: training.RunDir) -> None:
    with user_errors():
        given = settle_model()
        runs.end_if_finished(run)
        processes = runs.start_processes()
        say(given.notes)
        source, validation = segmentation.train_and_validation(
            FLAGS.data,
            FLAGS.validation_share,
            FLAGS.seed,
            FLAGS.reduce_zero_label,
            FLAGS.value_range,
        )
        crop = segmenters.training_size(source)
        say((*source.notes, *segmentation.mask_notes(source)))
        say(f"to validate with: {note}" for note in segmentation.mask_notes(validation))
        keras.utils.set_random_seed(FLAGS.seed)
        segmenter = segmenters.build_segmenter(source, given.ema)
        segmenters.check_fits(segmenter, source)
        transform = segmentation.SegmentationTransform(
            segmenters.bounds(),
            list_of_numbers("ratios", float, POSITIVE, 2),
            photometric=FLAGS.photometric,
        )
        batches = segmentation.SegmentationBatches(
            source,
            processes.images_of_process(FLAGS.batch_size),
            crop,
            FLAGS.seed,
            transform,
            shard=processes[:2],
            bad_images=runs.bad_images(source, run.bad_images),
        )
        schedule = training.LayerwiseWarmupPoly(
            FLAGS.learning_rate,
            FLAGS.steps,
            segmenter.backbone.num_layers,
            FLAGS.layer_decay,
            FLAGS.warmup_steps,
        )
        segmenter.compile(optimizer=runs.adamw(schedule), jit_compile=runs.jit_compile())
        segmenters.image_segmenter(segmenter)  # refuses wrong flags of inference now
        runs.open_run_dir(run, processes.number)
    size = "x".join(map(str, crop))
    print(
        f"{keras.backend.backend()}: {FLAGS.data}, {len(source):,} training images as {size}, "
        f"{len(validation):,} validation images, {source.num_classes} classes\n"
        f"{FLAGS.model}{' from scratch' if FLAGS.from_scratch else ''}: {segmenter.count_params():,} "
        f"parameters, {FLAGS.head} on blocks {', '.join(map(str, segmenter.taps))}, {FLAGS.dtype}, "
        f"{runs.describe_attention(segmenter.backbone)}\n"
        f"{runs.describe_batch(FLAGS.batch_size, 1, processes)}, {FLAGS.steps} updates, peak learning rate "
        f"{FLAGS.learning_rate:g}\n\n{segmenter.optimizer.table(segmenter)}\n"
    )
    # Every process validates with all images.
    record = None if processes.number else run.bad_validation_images
    bad = runs.bad_images(validation, record)

    def measure(model) -> dict[str, float]:
        segment = segmenters.image_segmenter(model)
        report = evaluation.segmentation_scores(segment, validation, bad, FLAGS.evaluate_images)
        return {"miou": report.miou, "macc": report.macc, "aacc": report.aacc}

    validate = training.Validation(
        measure,
        "miou",
        save_best=lambda best: replace_preset(best, run.best),
        times=FLAGS.validations,
    )
    runs.train(
        segmenter,
        batches,
        FLAGS.steps,
        FLAGS.batch_size,
        run,
        processes,
        finish=lambda whole: finish(whole, batches, bad, validation, validate, run),
        callbacks=[validate],
        validation=validation,
    )


def replace_preset(segmenter, folder: Path) -> None:
    with replacing(folder) as unfinished:
        segmenter.save_to_preset(unfinished)


def score_row(name: str, logs: dict) -> tuple[str, ...]:
    scores = (f"{100 * logs[f'val_{score}']:.2f}" for score in ("miou", "macc", "aacc"))
    return name, *scores, f"{int(logs['step'])}" if "step" in logs else "last"


def finish(segmenter, batches, bad, validation, validate, run: training.RunDir) -> None:
    """Write curves, trained weights, examples and the report, and print the scores."""
    runs.report_bad_images(batches.bad_images, "bad images were replaced by others", run.bad_images)
    runs.report_bad_images(bad, "validation images could not be read", run.bad_validation_images)
    visualization.plot_curves(run.log, run.curves, segmenter.optimizer)
    replace_preset(segmenter, run.trained)
    if validate.best is None:
        raise SystemExit(f"segment.py: no validation gave a finite mIoU; see {run.log}.")
    images, names = draw_examples(
        segmenters.image_segmenter(segmenter), validation, run.picture("examples")
    )
    last = validate.last
    print(
        f"mIoU {100 * last['val_miou']:.2f} %, mAcc {100 * last['val_macc']:.2f} %, aAcc "
        f"{100 * last['val_aacc']:.2f} % of the trained weights; best mIoU "
        f"{100 * validate.best_result:.2f} % at step {int(validate.best['step'])}: {run.best}\nsaved in {run}"
    )
    # At most 16 x 16 patches, so that the report's maps stay small.
    side = min(*batches.image_size, 16 * segmenter.backbone.patch_size)
    convert = data.NepaImageConverter(side, resize_to=side, channels=images[0].shape[-1])
    images = convert(images)
    rows = [
        ("validation images, in %", "mIoU", "mAcc", "aAcc", "at step"),
        score_row("trained weights", last),
        score_row("best weights", validate.best),
    ]
    visualization.write_report(run, segmenter, images, names, {"Validation results": rows})


def evaluate() -> None:
    with user_errors():
        split = segmentation.test_split(FLAGS.data)
        source = segmentation.open_pairs(
            FLAGS.data, split, FLAGS.reduce_zero_label, FLAGS.value_range
        )
        say((*source.notes, *segmentation.mask_notes(source)))
        given = settle_model()
        say(given.notes)
        segmenter = segmenters.load(given.ema)
        segmenters.check_fits(segmenter, source)
        segment = segmenters.image_segmenter(segmenter)
    bad = runs.bad_images(source, None)
    with exit_with_status():
        total = min(len(source), FLAGS.evaluate_images or len(source))
        shown = shown_source(source, total)
        report = evaluation.segmentation_scores(segment, shown, bad, FLAGS.evaluate_images)
    print(report.table(source.class_names))
    for line in bad.reasons.values():
        print(f"left out: {line}")


def in_eight_bits(source, channels: int):
    """A copy of a source whose images come as uint8 arrays, --value_range being black and white."""
    copied = copy.copy(source)
    copied.read = lambda index: data.decode_image(source.read(index), channels, FLAGS.value_range)
    return copied


def predict(run: training.RunDir) -> None:
    with user_errors():
        if not FLAGS.images:
            raise ValueError("--mode=predict needs --images, a folder of pictures.")
        images = FLAGS.images.removeprefix("folder:")
        source = data.open_source(f"folder:{images}")
        say(source.notes)
        given = settle_model()
        say(given.notes)
        segmenter = segmenters.load(given.ema)
        segment = segmenters.image_segmenter(segmenter)
        runs.open_run_dir(run)
    channels = segmenter.backbone.image_shape[-1]
    say_range(source, FLAGS.value_range)
    say_sight("--images", FLAGS.images, source, channels, None, "another --model keeps more detail")
    shown = shown_source(in_eight_bits(source, channels), len(source))
    with exit_with_status():
        left_out = visualization.write_masks(segment, shown, images, run.path)
    for line in left_out:
        print(f"left out: {line}")
    print(f"masks, overlays and the legend of their colours in {run}")


def main():
    with user_errors():
        require_experiments_extra()
        run = runs.run_dir_of_flags(f"segment_{FLAGS.mode}")
    if FLAGS.mode == "evaluate":
        evaluate()
    else:
        (train if FLAGS.mode == "train" else predict)(run)


if __name__ == "__main__":
    command_line.run(main)
