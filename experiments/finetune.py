r"""Fine-tune a pretrained NEPA backbone as an image classifier.

    KERAS_BACKEND=jax python experiments/finetune.py --model=runs/mine/ema \
        --flagfile=experiments/recipes/finetune_embedded.flags
    KERAS_BACKEND=jax python experiments/finetune.py --flagfile=experiments/recipes/finetune_base.flags \
        --model=hf://SixAILab/nepa-base-patch14-224 --data=imagenet:/data --validation_data=imagenet:/data

The run directory gets `best/` (the averaged weights of the best validation), `ema/` and `trained/` (averaged
and trained weights at the end), each a folder for `from_preset` and evaluate.py.
"""

import math
import time
from pathlib import Path

import keras
import numpy as np
from absl import app, flags
from command_line import (
    define_long_run_flags,
    describe_batch,
    honest_exit,
    one_sentence,
    open_labelled,
    open_run_dir,
    require_experiments_extra,
    start_processes,
    test_split,
    warn_of_departures,
)

import nepa_keras
from nepa_keras import data, evaluation, interop, training, visualization

FLAGS = flags.FLAGS

flags.DEFINE_string("model", None, "Pretrained: a folder, a preset's name or hf://owner/name.")
flags.DEFINE_boolean(
    "from_scratch", False, "Fresh weights, all trained, in the architecture of --model."
)
flags.DEFINE_string("data", "embedded", "Labelled images, as of pretrain.py.")
flags.DEFINE_string("data_dir", None, "As of pretrain.py.")
flags.DEFINE_string("validation_data", None, "As --data; default a part of the training images.")
flags.DEFINE_string("validation_split", None, "Of --validation_data; default its test split.")
flags.DEFINE_float(
    "validation_share", 0.1, "Of each class, held out.", lower_bound=0, upper_bound=1
)
flags.DEFINE_integer(
    "num_labels", None, "Train on so many images, the same of each class.", lower_bound=1
)
flags.DEFINE_enum(
    "bad_images", "skip", ["skip", "fail"], "What to do with an image that cannot be read."
)
flags.DEFINE_float("bad_images_share", 0.001, "Of all.", lower_bound=0, upper_bound=1)
flags.DEFINE_string("dtype", "float32", "float32, mixed_bfloat16 or mixed_float16.")

flags.DEFINE_integer("batch_size", 128, "Images per batch.", lower_bound=1)
flags.DEFINE_integer("accumulation_steps", 1, "Batches per update.", lower_bound=1)
flags.DEFINE_float("epochs", 20, "Passes over the training images.", lower_bound=0)
flags.DEFINE_integer("steps", None, "Updates, in place of --epochs.", lower_bound=1)
flags.DEFINE_float("base_learning_rate", 2e-3, "For 256 images; scaled by the effective batch.")
flags.DEFINE_float("head_learning_rate", 1e-3, "Of classifier and final norm; not scaled.")
flags.DEFINE_float("layer_decay", 0.75, "Of the rate, from a block to the one below.")
flags.DEFINE_float("final_layer_decay", None, "Where it moves to; for --noown_warmup.")
flags.DEFINE_float("warmup_ratio", 0.2, "Share of the updates.", lower_bound=0, upper_bound=1)
flags.DEFINE_boolean("own_warmup", True, "A warm-up for each block; --noown_warmup: one for all.")
flags.DEFINE_float("weight_decay", 0.05, "On matrices.", lower_bound=0)
flags.DEFINE_float("beta_2", 0.999, "Of AdamW.", lower_bound=0)
flags.DEFINE_float("clip_norm", 1.0, "Bound of the gradient norm.", lower_bound=0)
flags.DEFINE_float("ema_decay", 0.99, "Of the weight average.", lower_bound=0)
flags.DEFINE_float("drop_path", 0.1, "Rate of the last block.", lower_bound=0, upper_bound=1)
flags.DEFINE_list(
    "freeze", ["patch_embedding/kernel", "patch_embedding/bias"], "Variables or layers, or empty."
)
flags.DEFINE_integer(
    "lora_rank",
    None,
    "Rank of low-rank adapters (LoRA), which are trained in place of the backbone's weights.",
    lower_bound=1,
)
flags.DEFINE_boolean("causal", False, "--causal: attention as in pretraining.")

flags.DEFINE_enum(
    "augmentation",
    "recipe",
    ["recipe", "keras_cv", "none"],
    "The recipe's own operations, KerasCV's, or only resizing.",
)
flags.DEFINE_float("smallest_crop", 0.08, "Share of the image.", lower_bound=0, upper_bound=1)
flags.DEFINE_integer("rand_augment", 2, "Operations; 0 for none.", lower_bound=0)
flags.DEFINE_float("magnitude", 9.0, "Of RandAugment, from 0 to 10.")
flags.DEFINE_float("magnitude_std", 0.5, "Of RandAugment.")
flags.DEFINE_float("erasing", 0.25, "Share of the images.", lower_bound=0, upper_bound=1)
flags.DEFINE_float("mixup", 0.8, "Alpha; 0 for none.", lower_bound=0)
flags.DEFINE_float("cutmix", 1.0, "Alpha; 0 for none.", lower_bound=0)
flags.DEFINE_float("switch_probability", 0.5, "Share of CutMix.", lower_bound=0, upper_bound=1)
flags.DEFINE_float("label_smoothing", 0.1, "Of the targets.", lower_bound=0, upper_bound=1)
flags.DEFINE_list("resize_to", [], "Before the centre crop of evaluation: shorter side, or H,W.")
flags.DEFINE_enum("interpolation", "bicubic", ["bilinear", "bicubic"], "Of all resizing.")

flags.DEFINE_integer("seed", 1337, "Of the head, order, augmentation and split.")
flags.DEFINE_string("run_dir", None, "Folder of the run; default runs/finetune_DATA_TIME.")
define_long_run_flags()
flags.DEFINE_boolean("jit_compile", None, "Compile the step; default where it pays.")


def open_data() -> tuple[data.ImageSource, data.ImageSource]:
    """Labelled images for training and for validation."""
    source = open_labelled("--data", FLAGS.data, "train", FLAGS.data_dir)
    if FLAGS.validation_data:
        split = FLAGS.validation_split or test_split(FLAGS.validation_data)
        validation = open_labelled(
            "--validation_data", FLAGS.validation_data, split, FLAGS.data_dir
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
    return int(max(source.labels.max(), validation.labels.max())) + 1


def build_model(num_classes: int, class_names) -> nepa_keras.NepaImageClassifier:
    if not FLAGS.model:
        raise ValueError(
            "--model names what to fine-tune: the folder ema/ of a pretraining run, a preset's name or "
            "hf://owner/name."
        )
    if FLAGS.from_scratch and FLAGS.lora_rank:
        raise ValueError("--lora_rank adapts trained weights, which --from_scratch does without.")
    return nepa_keras.NepaImageClassifier.from_preset(
        FLAGS.model,
        load_weights=not FLAGS.from_scratch,
        num_classes=num_classes,
        class_names=class_names,
        use_causal_mask=FLAGS.causal,
        frozen=() if FLAGS.from_scratch else tuple(filter(None, FLAGS.freeze)),
        drop_path_rate=FLAGS.drop_path,
        lora_rank=FLAGS.lora_rank,
        dtype=FLAGS.dtype,
    )


def build_converter(image_shape) -> data.NepaImageConverter:
    """How images are prepared for evaluation; kept beside the weights."""
    try:
        resize_to = tuple(int(side) for side in FLAGS.resize_to) or None
    except ValueError:
        raise ValueError(
            f"--resize_to={','.join(FLAGS.resize_to)} is no number of pixels."
        ) from None
    if resize_to and len(resize_to) == 1:
        (resize_to,) = resize_to
    *size, channels = image_shape
    return data.NepaImageConverter(tuple(size), resize_to, FLAGS.interpolation, channels=channels)


def account(source, record: Path | None) -> data.BadImages:
    """Of the bad images of a source, as --bad_images says; they are named in the file `record`."""
    share = FLAGS.bad_images_share if FLAGS.bad_images == "skip" else 0.0
    return data.BadImages(len(source), share, record)


def build_batches(source, model, record: Path, processes) -> tuple:
    """The batches, and a function that gives the endless stream of images and soft targets from a step on."""
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
        bad_images=account(source, record),
    )

    def batches_from(step: int):
        batches.seek(step)
        if FLAGS.augmentation == "keras_cv":
            return data.keras_cv_batches(batches, mix, augment, erasing)
        return batches.endless()

    return batches, batches_from


def number_of_updates(batches_per_epoch: int) -> int:
    updates = FLAGS.steps or int(FLAGS.epochs * batches_per_epoch) // FLAGS.accumulation_steps
    if updates < 1:
        raise ValueError(f"--epochs={FLAGS.epochs} of this data is less than one update; raise it.")
    return updates


def compile_model(model, batch_size: int, updates: int, processes) -> None:
    """AdamW of the recipe with a rate for each block; prints what comes of the flags."""
    effective_batch = batch_size * FLAGS.accumulation_steps
    rate = training.scaled_learning_rate(FLAGS.base_learning_rate, effective_batch)
    optimizer = training.adamw(
        training.LayerwiseWarmupCosine(
            rate,
            updates,
            model.backbone.num_layers,
            FLAGS.layer_decay,
            FLAGS.head_learning_rate,
            FLAGS.warmup_ratio,
            own_warmup=FLAGS.own_warmup,
            final_layer_decay=FLAGS.final_layer_decay,
        ),
        weight_decay=FLAGS.weight_decay,
        beta_2=FLAGS.beta_2,
        clip_norm=FLAGS.clip_norm or None,
        ema_decay=FLAGS.ema_decay,
        accumulation_steps=FLAGS.accumulation_steps,
    )
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        jit_compile="auto" if FLAGS.jit_compile is None else FLAGS.jit_compile,
    )
    print(
        f"{describe_batch(batch_size, FLAGS.accumulation_steps, processes)}, {updates} updates, "
        f"peak learning rate {FLAGS.base_learning_rate:g} * {effective_batch} / 256 = {rate:.3g}\n\n"
        f"{optimizer.table(model)}\n"
    )
    warn_of_departures("finetune", model.backbone, effective_batch, freeze=list(model.frozen))


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Flags start with --; this does not: {argv[1]}")
    with one_sentence():
        require_experiments_extra()
        processes = start_processes()
        source, validation = open_data()
        keras.utils.set_random_seed(FLAGS.seed)
        classes = number_of_classes(source, validation)
        validation = data.with_classes(validation, source.class_names, classes)
        model = build_model(classes, source.class_names)
        shape = model.backbone.image_shape
        converter = build_converter(shape)
        name = f"runs/finetune_{FLAGS.data.partition(':')[0]}_{time.strftime('%Y%m%d-%H%M%S')}"
        run_dir = Path(FLAGS.run_dir or name).expanduser()
        batches, batches_from = build_batches(source, model, run_dir / "bad_images.txt", processes)
        batch_size = batches.batch_size * processes.count
        # Every process validates with all images.
        bad_validation = None if processes.number else run_dir / "bad_validation_images.txt"
        ordered = data.OrderedBatches(
            validation,
            batch_size,
            shape[:2],
            converter.transform(),
            shape[2],
            bad_images=account(validation, bad_validation),
        )
        updates = number_of_updates(batches.steps_per_epoch)
    print(
        f"{keras.backend.backend()}: {FLAGS.data}, {len(source):,} images to train on, "
        f"{len(validation):,} to validate with, {model.num_classes} classes, "
        f"as {shape[0]}x{shape[1]}x{shape[2]}\n"
        f"{FLAGS.model}{' from scratch' if FLAGS.from_scratch else ''}: {model.count_params():,} parameters, "
        f"{model.backbone.num_layers} blocks of width {model.backbone.hidden_dim}, {FLAGS.dtype}"
    )
    with one_sentence():
        compile_model(model, batch_size, updates, processes)
        open_run_dir(run_dir, processes.number)

    def measure(trained) -> dict[str, float]:
        logits, indices = evaluation.predict_batches(trained, ordered)
        if not np.isfinite(logits).all():
            return {"accuracy": math.nan, "top5": math.nan}
        report = evaluation.classification_report(logits, validation.labels[indices])
        return {"accuracy": report.top1, "top5": report.top5}

    validate = training.Validation(
        measure,
        save_best=lambda best: interop.replace_huggingface(best, run_dir / "best", converter),
    )
    with honest_exit(batches):
        training.fit_steps(
            model,
            batches_from,
            updates * FLAGS.accumulation_steps,
            batch_size,
            run_dir,
            seconds_waited=lambda: batches.seconds_waited,
            mfu=evaluation.ModelFlopsUtilization(model.backbone, processes.devices),
            callbacks=[validate],
            keep_last=FLAGS.keep_last,
            keep_every=FLAGS.keep_every,
            describe_batch=batches.describe,
        )
        with training.on_one_device(model) as whole:
            if processes.number == 0:
                finish(whole, batches, ordered, converter, validate, run_dir)


def score_row(name: str, logs: dict, prefix: str) -> tuple[str, ...]:
    scores = (f"{100 * logs[f'{prefix}_{score}']:.2f}" for score in ("accuracy", "top5"))
    return name, *scores, f"{int(logs['step'])}" if "step" in logs else "last"


def finish(model, batches, ordered, converter, validate, run_dir: Path) -> None:
    """Curves, the trained and the averaged weights, what they are worth, and the report of it all."""
    if bad := batches.bad_images.lines:
        print(f"{len(bad)} bad images were replaced by others: {run_dir / 'bad_images.txt'}")
    if bad := ordered.bad_images.lines:
        print(f"{len(bad)} images were not validated with: {run_dir / 'bad_validation_images.txt'}")
    visualization.plot_curves(run_dir / "log.csv", run_dir / "curves.png")
    interop.replace_huggingface(model, run_dir / "trained", converter)
    with training.ema_weights(model):
        interop.replace_huggingface(model, run_dir / "ema", converter)
    if validate.best is None:
        raise SystemExit(f"finetune.py: no update was good; see {run_dir / 'log.csv'}.")
    last, best = validate.last, validate.best
    print(
        f"validation accuracy: trained {100 * last['val_accuracy']:.2f} %, averaged "
        f"{100 * last['ema_val_accuracy']:.2f} %; best averaged "
        f"{100 * best['ema_val_accuracy']:.2f} % at step {int(best['step'])}\nkept in {run_dir}"
    )
    if ":" not in FLAGS.data:
        print(f"python experiments/evaluate.py --model={run_dir}/best --data={FLAGS.data}")
    images, indices = next(iter(ordered))
    labels = ordered.source.labels[indices[:4]]
    names = ordered.source.class_names or [f"class {k}" for k in range(model.num_classes)]
    rows = [
        ("accuracy on validation images in %", "top-1", "top-5", "at step"),
        score_row("trained weights", validate.last, "val"),
        score_row("averaged weights", validate.last, "ema_val"),
        score_row("best averaged weights", validate.best, "ema_val"),
    ]
    visualization.log_pictures(run_dir)
    captions, tables = [names[k] for k in labels], {"What it came to": rows}
    with training.ema_weights(model):
        visualization.write_report(run_dir, model, images[:4], captions, tables)


if __name__ == "__main__":
    app.run(main)
