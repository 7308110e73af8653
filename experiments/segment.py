r"""Semantic segmentation with a NEPA backbone: train, evaluate, predict.

    KERAS_BACKEND=jax python experiments/segment.py --model=runs/mine/ema --run_dir=runs/scenes
    KERAS_BACKEND=jax python experiments/segment.py --mode=evaluate --model=runs/scenes/best
    KERAS_BACKEND=jax python experiments/segment.py --mode=predict --model=runs/scenes/best \
        --images=/path/to/pictures --run_dir=runs/predicted
    KERAS_BACKEND=jax python experiments/segment.py \
        --flagfile=experiments/recipes/segment_ade20k_base.flags \
        --model=hf://SixAILab/nepa-base-patch14-224 --data=ade20k:/path/to/ADEChallengeData2016

Without --data it is scenes of Fashion-MNIST that ship with the library. The run directory gets `best/` and
`trained/` (folders for `from_preset`), `log.csv`, `curves.png`, `examples.png` (image, truth, prediction) and
`report.html`.
With `--flagfile=RUN_DIR/flags.txt` before --mode, images are looked at as in training.
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
from nepa_keras.files import replacing

FLAGS = flags.FLAGS
MODES = ("train", "evaluate", "predict")

flags.DEFINE_enum("mode", "train", MODES, "What to do with a segmenter.")
define_model_flags()
flags.DEFINE_string(
    "data", "scenes", "Images and masks: scenes, scenes:digits, ade20k:PATH or pairs:PATH."
)
flags.DEFINE_boolean(
    "reduce_zero_label", False, "In masks of pairs:PATH value 0 is no class, and k is class k - 1."
)
flags.DEFINE_string("images", None, "Folder of pictures for --mode=predict.")
flags.DEFINE_integer(
    "evaluate_images", None, "Validate with so many images; default all.", lower_bound=1
)
define_image_flags()
define_value_range_flag()
define_classes_flag()

segmenters.define_flags()
define_image_size_flag(
    "that of --model, crops of --crop_size, and images looked at as a whole",
    "Size of the training images and of the windows that images are looked at through",
)
flags.DEFINE_integer(
    "crop_size",
    None,
    "Side of the training images alone, in place of --image_size; no multiple of the patch is filled up.",
    lower_bound=1,
)
flags.DEFINE_list("ratios", ["0.5", "2"], "Smallest and largest factor of scaling in training.")
flags.DEFINE_boolean("photometric", True, "Change colours in training.")
define_training_flags(run_dir="runs/segment_MODE_TIME", batch_size=16, beta_2=0.999, clip_norm=0.0)
flags.DEFINE_integer("steps", 600, "Updates.", lower_bound=1)
define_number("learning_rate", 1e-3, "Peak rate of the heads; not scaled.", RATE)
define_number("layer_decay", 0.65, "Factor of the rate from a block to the one below.", FACTOR)
flags.DEFINE_integer("warmup_steps", 60, "Updates that the warm-up takes.", lower_bound=0)

flags.DEFINE_integer("validations", 5, "Number of validations in training, about.", lower_bound=1)


def draw_examples(segment, source, path: Path, count: int = 4) -> list:
    """Draws the first images that can be read, and returns them, uint8 (H, W, C)."""
    pairs = []
    for index in range(len(source)):
        if len(pairs) == count:
            break
        with contextlib.suppress(data.ImageError):
            pairs.append(source.read(index))
    images, labels = [x[..., :-1] for x in pairs], [x[..., -1] for x in pairs]
    predictions = [segment.labels(image) for image in images]
    visualization.plot_segmentation(images, labels, predictions, source.class_names, path)
    return images


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
        segmenters.image_segmenter(segmenter)  # a wrong flag is noticed now
        runs.open_run_dir(run, processes.number)
    size = "x".join(map(str, crop))
    print(
        f"{keras.backend.backend()}: {FLAGS.data}, {len(source):,} images to train on as {size}, "
        f"{len(validation):,} to validate with, {source.num_classes} classes\n"
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
    """Curves, the trained weights, examples, the scores, and the report of it all."""
    runs.report_bad_images(batches.bad_images, "bad images were replaced by others", run.bad_images)
    runs.report_bad_images(bad, "images were not validated with", run.bad_validation_images)
    visualization.plot_curves(run.log, run.curves)
    replace_preset(segmenter, run.trained)
    if validate.best is None:
        raise SystemExit(f"segment.py: no mIoU is a number; see {run.log}.")
    images = draw_examples(
        segmenters.image_segmenter(segmenter), validation, run.picture("examples")
    )
    last = validate.last
    print(
        f"mIoU {100 * last['val_miou']:.2f} %, mAcc {100 * last['val_macc']:.2f} %, aAcc "
        f"{100 * last['val_aacc']:.2f} % of the trained weights; best mIoU "
        f"{100 * validate.best_result:.2f} % at step {int(validate.best['step'])}: {run.best}\nkept in {run}"
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
    visualization.write_report(run, segmenter, images, (), {"What it came to": rows})


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
    say_sight("--images", FLAGS.images, source, channels, None, "another --model sees more")
    shown = shown_source(in_eight_bits(source, channels), len(source))
    with exit_with_status():
        left_out = visualization.write_masks(segment, shown, images, run.path)
    for line in left_out:
        print(f"left out: {line}")
    print(f"masks and overlays in {run}")


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
