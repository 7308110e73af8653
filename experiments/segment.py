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

import collections
import contextlib
import time
from pathlib import Path

import keras
from absl import app, flags
from command_line import (
    define_long_run_flags,
    describe_batch,
    honest_exit,
    one_sentence,
    open_run_dir,
    require_experiments_extra,
    start_processes,
)

import nepa_keras
from nepa_keras import data, evaluation, training, visualization
from nepa_keras.data import segmentation

FLAGS = flags.FLAGS
MODES = ("train", "evaluate", "predict")

flags.DEFINE_enum("mode", "train", MODES, "What to do.")
flags.DEFINE_string(
    "model", None, "A folder, a preset's name or hf://owner/name; in --mode=train the backbone."
)
flags.DEFINE_boolean("from_scratch", False, "Fresh weights in the architecture of --model.")
flags.DEFINE_string("data", "scenes", "scenes, scenes:digits, ade20k:PATH or pairs:PATH.")
flags.DEFINE_float(
    "validation_share", 0.1, "Held out where no split is for it.", lower_bound=0, upper_bound=1
)
flags.DEFINE_boolean("reduce_zero_label", False, "Of pairs: value 0 is no class, k is k - 1.")
flags.DEFINE_string("images", None, "Folder of pictures for --mode=predict.")
flags.DEFINE_integer("evaluate_images", None, "Only so many of them.", lower_bound=1)
flags.DEFINE_float("bad_images_share", 0.001, "Of all.", lower_bound=0, upper_bound=1)

flags.DEFINE_enum("head", "upernet", ["upernet", "linear"], "On the backbone.")
flags.DEFINE_integer("channels", None, "Of UPerNet; default the width.", lower_bound=1)
flags.DEFINE_list("taps", None, "Four blocks that UPerNet reads; default by depth.")
flags.DEFINE_boolean("freeze_backbone", False, "Train the head alone.")
flags.DEFINE_float("auxiliary_weight", 0.4, "Of the loss of the FCN head.", lower_bound=0)
flags.DEFINE_float("drop_path", 0.1, "Rate of the last block.", lower_bound=0, upper_bound=1)
flags.DEFINE_string("dtype", "float32", "float32, mixed_bfloat16 or mixed_float16.")

flags.DEFINE_integer("crop_size", None, "Side of the training images.", lower_bound=1)
flags.DEFINE_list("fit", [], "Bounds LONG,SHORT that images are brought to; default their size.")
flags.DEFINE_list("ratios", ["0.5", "2"], "Smallest and largest factor in training.")
flags.DEFINE_boolean("photometric", True, "Change colours in training.")
flags.DEFINE_integer("batch_size", 16, "Images per batch.", lower_bound=1)
flags.DEFINE_integer("steps", 600, "Updates.", lower_bound=1)
flags.DEFINE_float("learning_rate", 1e-3, "Peak, of the heads; not scaled.", lower_bound=0)
flags.DEFINE_float("layer_decay", 0.65, "Of the rate, from a block to the one below.")
flags.DEFINE_integer("warmup_steps", 60, "Of the steps.", lower_bound=0)
flags.DEFINE_float("weight_decay", 0.05, "On matrices and kernels.", lower_bound=0)
flags.DEFINE_float("beta_2", 0.999, "Of AdamW.", lower_bound=0)
flags.DEFINE_float("clip_norm", 0.0, "Bound of the gradient norm; 0 for none.", lower_bound=0)

flags.DEFINE_integer("window", None, "Evaluate through windows of this side.", lower_bound=1)
flags.DEFINE_integer("stride", None, "Of the windows; default two thirds.", lower_bound=1)
flags.DEFINE_list("scales", ["1"], "Factors of evaluation; probabilities are averaged.")
flags.DEFINE_boolean("flip", False, "Evaluate mirrored images too.")
flags.DEFINE_integer("validations", 5, "While training, about.", lower_bound=1)
flags.DEFINE_integer("seed", 1337, "Of the heads, order and augmentation.", lower_bound=0)
flags.DEFINE_string("run_dir", None, "Folder of the run; default runs/segment_MODE_TIME.")
define_long_run_flags()
flags.DEFINE_boolean("jit_compile", None, "Compile the step; default where it pays.")


def numbers(name: str, kind, count: int | None = None) -> tuple:
    """The values of a list flag."""
    try:
        values = tuple(kind(value) for value in FLAGS[name].value)
    except ValueError:
        values = ()
    if not values or min(values) < 0 or (count and len(values) != count):
        wanted = "numbers" if count is None else f"{count} numbers"
        raise ValueError(f"--{name}={','.join(FLAGS[name].value)} must be {wanted}.")
    return values


def build_segmenter(source) -> nepa_keras.NepaImageSegmenter:
    if not FLAGS.model:
        raise ValueError("--model names what to segment with: a folder, a preset's name or hf://…")
    given = {"channels": FLAGS.channels, "taps": FLAGS.taps and numbers("taps", int, 4)}
    given = {name: value for name, value in given.items() if value}
    return nepa_keras.NepaImageSegmenter.from_preset(
        FLAGS.model,
        load_weights=not FLAGS.from_scratch,
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
        numbers("fit", int, 2) if FLAGS.fit else None,
        FLAGS.window,
        FLAGS.stride,
        numbers("scales", float),
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


def train(run_dir: Path) -> None:
    with one_sentence():
        processes = start_processes()
        source, validation = segmentation.train_and_validation(
            FLAGS.data, FLAGS.validation_share, FLAGS.seed, FLAGS.reduce_zero_label
        )
        if not FLAGS.crop_size and not FLAGS.data.startswith("scenes"):
            raise ValueError(
                "--crop_size is the side of the training images; give a multiple of the patch."
            )
        keras.utils.set_random_seed(FLAGS.seed)
        segmenter = build_segmenter(source)
        check_fits(segmenter, source)
        transform = segmentation.SegmentationTransform(
            numbers("fit", int, 2) if FLAGS.fit else None,
            numbers("ratios", float, 2),
            photometric=FLAGS.photometric,
        )
        crop = FLAGS.crop_size or len(source.read(0))
        batches = segmentation.SegmentationBatches(
            source,
            processes.images_of_process(FLAGS.batch_size),
            crop,
            FLAGS.seed,
            transform,
            shard=processes[:2],
            bad_images=data.BadImages(
                len(source), FLAGS.bad_images_share, run_dir / "bad_images.txt"
            ),
        )
        optimizer = training.adamw(
            training.LayerwiseWarmupPoly(
                FLAGS.learning_rate,
                FLAGS.steps,
                segmenter.backbone.num_layers,
                FLAGS.layer_decay,
                FLAGS.warmup_steps,
            ),
            weight_decay=FLAGS.weight_decay,
            beta_2=FLAGS.beta_2,
            clip_norm=FLAGS.clip_norm or None,
            ema_decay=None,
        )
        segmenter.compile(
            optimizer=optimizer,
            jit_compile="auto" if FLAGS.jit_compile is None else FLAGS.jit_compile,
        )
        image_segmenter(segmenter)  # a wrong flag is noticed now
        open_run_dir(run_dir, processes.number)
    print(
        f"{keras.backend.backend()}: {FLAGS.data}, {len(source):,} images to train on as {crop}x{crop}, "
        f"{len(validation):,} to validate with, {source.num_classes} classes\n"
        f"{FLAGS.model}{' from scratch' if FLAGS.from_scratch else ''}: {segmenter.count_params():,} "
        f"parameters, {FLAGS.head} on blocks {', '.join(map(str, segmenter.taps))}, {FLAGS.dtype}\n"
        f"{describe_batch(FLAGS.batch_size, 1, processes)}, {FLAGS.steps} updates, peak learning rate "
        f"{FLAGS.learning_rate:g}\n\n{optimizer.table(segmenter)}\n"
    )
    # Every process validates with all images.
    record = None if processes.number else run_dir / "bad_validation_images.txt"
    bad = data.BadImages(len(validation), FLAGS.bad_images_share, record)

    def measure(model) -> dict[str, float]:
        segment = image_segmenter(model)
        report = evaluation.segmentation_scores(segment, validation, bad, FLAGS.evaluate_images)
        return {"miou": report.miou, "macc": report.macc, "aacc": report.aacc}

    validate = training.Validation(
        measure,
        "miou",
        save_best=lambda best: best.save_to_preset(run_dir / "best"),
        times=FLAGS.validations,
    )
    with honest_exit(batches):
        training.fit_steps(
            segmenter,
            lambda step: batches.seek(step).endless(),
            FLAGS.steps,
            FLAGS.batch_size,
            run_dir,
            seconds_waited=lambda: batches.seconds_waited,
            callbacks=[validate],
            keep_last=FLAGS.keep_last,
            keep_every=FLAGS.keep_every,
            describe_batch=batches.describe,
        )
        with training.on_one_device(segmenter) as whole:
            if processes.number == 0:
                finish(whole, batches, bad, validation, validate, run_dir)


def score_row(name: str, logs: dict) -> tuple[str, ...]:
    scores = (f"{100 * logs[f'val_{score}']:.2f}" for score in ("miou", "macc", "aacc"))
    return name, *scores, f"{int(logs['step'])}" if "step" in logs else "last"


def finish(segmenter, batches, bad, validation, validate, run_dir: Path) -> None:
    """Curves, the trained weights, examples, the scores, and the report of it all."""
    for kind, account in (("bad", batches.bad_images), ("bad_validation", bad)):
        if account.lines:
            print(f"{len(account.lines)} bad images: {run_dir / kind}_images.txt")
    visualization.plot_curves(run_dir / "log.csv", run_dir / "curves.png")
    segmenter.save_to_preset(run_dir / "trained")
    if validate.best is None:
        raise SystemExit(f"segment.py: no mIoU is a number; see {run_dir / 'log.csv'}.")
    images = draw_examples(image_segmenter(segmenter), validation, run_dir / "examples.png")
    last = validate.last
    print(
        f"mIoU {100 * last['val_miou']:.2f} %, mAcc {100 * last['val_macc']:.2f} %, aAcc "
        f"{100 * last['val_aacc']:.2f} % of the trained weights; best mIoU "
        f"{100 * validate.best['val_miou']:.2f} % at step {int(validate.best['step'])}\nkept in {run_dir}"
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
    visualization.log_pictures(run_dir)
    visualization.write_report(run_dir, segmenter, images, (), {"What it came to": rows})


def load() -> nepa_keras.NepaImageSegmenter:
    if not FLAGS.model:
        raise ValueError("--model names a segmenter: the folder best/ or trained/ of a run.")
    return nepa_keras.NepaImageSegmenter.from_preset(FLAGS.model, dtype=FLAGS.dtype)


def evaluate() -> None:
    with one_sentence():
        split = segmentation.test_split(FLAGS.data)
        source = segmentation.open_pairs(FLAGS.data, split, FLAGS.reduce_zero_label)
        segmenter = load()
        check_fits(segmenter, source)
        segment = image_segmenter(segmenter)
    bad = data.BadImages(len(source), FLAGS.bad_images_share)
    with honest_exit():
        report = evaluation.segmentation_scores(segment, source, bad, FLAGS.evaluate_images)
    print(report.table(source.class_names))
    for line in bad.reasons.values():
        print(f"left out: {line}")


def predict(run_dir: Path) -> None:
    """Masks as PNG files of class numbers, and pictures of them over their images."""
    from PIL import Image

    with one_sentence():
        if not FLAGS.images:
            raise ValueError("--mode=predict needs --images, a folder of pictures.")
        source = data.open_source(f"folder:{FLAGS.images}")
        segmenter = load()
        segment = image_segmenter(segmenter)
        open_run_dir(run_dir)
    colors = visualization.class_colors(segmenter.num_classes)
    folder = Path(FLAGS.images).expanduser()
    names = [Path(source.name(index)).relative_to(folder) for index in range(len(source))]
    of_stem = collections.Counter(name.with_suffix("") for name in names)
    for index, name in enumerate(names):
        try:
            pixels = data.decode_image(source.read(index), segmenter.backbone.image_shape[-1])
        except data.ImageError as error:
            print(f"left out: {source.name(index)}: {error}")
            continue
        labels = segment.labels(pixels)
        # a.jpg becomes a.png; beside another a.* it becomes a.jpg.png, and both are kept.
        stem = name.with_suffix("")
        stem = name if of_stem[stem] > 1 else stem
        for kind, picture in (
            ("masks", labels),
            ("overlays", visualization.overlay(pixels, labels, colors)),
        ):
            path = run_dir / kind / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path)
    print(f"masks and overlays in {run_dir}")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Flags start with --; this does not: {argv[1]}")
    with one_sentence():
        require_experiments_extra()
    name = f"runs/segment_{FLAGS.mode}_{time.strftime('%Y%m%d-%H%M%S')}"
    run_dir = Path(FLAGS.run_dir or name).expanduser()
    if FLAGS.mode == "evaluate":
        evaluate()
    else:
        (train if FLAGS.mode == "train" else predict)(run_dir)


if __name__ == "__main__":
    app.run(main)
