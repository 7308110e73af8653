r"""Pretrain NEPA on images, and say what it was worth.

    KERAS_BACKEND=jax python experiments/pretrain.py
    KERAS_BACKEND=jax python experiments/pretrain.py --flagfile=experiments/recipes/pretrain_base.flags \
        --data=folder:/path/to/images --run_dir=runs/base

Without flags it is recipes/pretrain_embedded.flags: 10 000 images that ship with the library.
A step of a run that was not finite is computed again, with the run's own flags, by

    KERAS_BACKEND=jax python experiments/pretrain.py --replay=runs/base/non_finite/step-00000123
"""

import sys
import time
from pathlib import Path

import keras
from absl import app, flags
from command_line import (
    NOT_FINITE,
    define_long_run_flags,
    describe_batch,
    honest_exit,
    one_sentence,
    open_run_dir,
    repeat_flags,
    require_experiments_extra,
    start_processes,
    warn_of_departures,
)

import nepa_keras
from nepa_keras import data, evaluation, interop, training, visualization

FLAGS = flags.FLAGS
PRESETS = {"embedded": "nepa_micro_patch7_28", "fashion_mnist": "nepa_micro_patch4_28"}
PRESETS["digits"] = "nepa_micro_patch2_8"

flags.DEFINE_string(
    "data",
    "embedded",
    "embedded, digits, fashion_mnist, folder:PATH, imagenet:PATH, tfds:NAME, tfrecord:FILES, "
    "parquet:FILES, arrow:PATH or webdataset:FILES.",
)
flags.DEFINE_string("data_dir", None, "Of --data=tfds:NAME, and of fashion_mnist's four .gz files.")
flags.DEFINE_integer(
    "channels", 3, "Of images on disk: 3, 1, or those of .npy files.", lower_bound=1
)
flags.DEFINE_enum(
    "bad_images", "skip", ["skip", "fail"], "What to do with an image that cannot be read."
)
flags.DEFINE_float(
    "bad_images_share", 0.001, "Of all; more bad ones stop the run.", lower_bound=0, upper_bound=1
)
flags.DEFINE_string("preset", None, "Architecture; the in-memory data sets have a default.")
flags.DEFINE_integer("image_size", None, "Side of the images; default the preset's.", lower_bound=1)
flags.DEFINE_float("layer_scale", None, "Initial LayerScale; default the preset's.")
flags.DEFINE_string("dtype", "float32", "float32, mixed_bfloat16 or mixed_float16.")

flags.DEFINE_integer("batch_size", 128, "Images per batch, on all devices.", lower_bound=1)
flags.DEFINE_integer("accumulation_steps", 1, "Batches per update.", lower_bound=1)
flags.DEFINE_boolean(
    "remat", False, "Recompute blocks in the backward pass: less memory, more time."
)
flags.DEFINE_integer("steps", None, "Updates; default 1600.", lower_bound=1)
flags.DEFINE_float("epochs", None, "Passes over the data, in place of --steps.", lower_bound=0)
flags.DEFINE_float("base_learning_rate", 8e-3, "For 256 images; scaled by the effective batch.")
flags.DEFINE_float("warmup_ratio", 0.1, "Share of the updates.", lower_bound=0, upper_bound=1)
flags.DEFINE_float("weight_decay", 0.05, "On matrices, patch kernel and CLS.", lower_bound=0)
flags.DEFINE_float("beta_2", 0.95, "Of AdamW.", lower_bound=0)
flags.DEFINE_float("clip_norm", 1.0, "Bound of the gradient norm.", lower_bound=0)
flags.DEFINE_float("ema_decay", 0.99, "Of the weight average.", lower_bound=0)
flags.DEFINE_integer("seed", 1337, "Of weights, order and augmentation.")

flags.DEFINE_boolean("shift", True, "Predict the next patch; --noshift: the same one.")
flags.DEFINE_boolean("causal", True, "--nocausal: every patch sees all.")
flags.DEFINE_boolean(
    "stop_gradient", True, "--nostop_gradient: targets are trained too; collapses."
)
flags.DEFINE_float("masking_ratio", 0.0, "Share of input patches hidden in training.")

flags.DEFINE_integer(
    "monitor_images",
    0,
    "Look at the features of so many test images as the run goes: rank, spread, drift, k-NN, linear probe.",
    lower_bound=0,
)
flags.DEFINE_string("run_dir", None, "Folder of the run; default runs/pretrain_DATA_TIME.")
flags.DEFINE_string("replay", None, "Folder RUN_DIR/non_finite/step-...: compute the step again.")
define_long_run_flags()
flags.DEFINE_boolean("jit_compile", None, "Compile the step; default where it pays.")
flags.DEFINE_boolean("evaluate", None, "What was it worth; default where the data has labels.")
flags.DEFINE_integer("num_labels", 100, "Labels to fine-tune on.", lower_bound=1)
flags.DEFINE_integer("finetune_steps", 100, "Steps of each fine-tuning.", lower_bound=1)
flags.DEFINE_float("finetune_learning_rate", 2e-3, "Peak, not scaled.")


def load_data() -> data.ImageArrays | data.ImageSource:
    """The images of --data. Refuses an --evaluate that has no arrays to evaluate with."""
    if ":" not in FLAGS.data:
        return data.load(FLAGS.data, FLAGS.data_dir)
    if FLAGS.evaluate:
        raise ValueError(
            f"--evaluate is for {', '.join(PRESETS)}, which fit into memory; for --data={FLAGS.data} "
            "add --noevaluate."
        )
    if FLAGS.preset is None:
        raise ValueError(f"--data={FLAGS.data} needs --preset, such as nepa_small_patch14_224.")
    return data.open_source(FLAGS.data, data_dir=FLAGS.data_dir)


def build_model(source) -> nepa_keras.NepaPretrainer:
    """The model the flags describe, for the channels of the data."""
    preset = FLAGS.preset or PRESETS[FLAGS.data]
    height, width, _ = nepa_keras.presets.preset_config(preset).get("image_shape", (224, 224, 3))
    if FLAGS.image_size:
        height = width = FLAGS.image_size
    in_memory = isinstance(source, data.ImageArrays)
    channels = source.train_images.shape[-1] if in_memory else FLAGS.channels
    overrides = {} if FLAGS.layer_scale is None else {"layer_scale": FLAGS.layer_scale}
    backbone = nepa_keras.NepaBackbone.from_preset(
        preset,
        load_weights=False,
        image_shape=(height, width, channels),
        use_causal_mask=FLAGS.causal,
        use_mask_token=FLAGS.masking_ratio > 0,
        remat=FLAGS.remat,
        dtype=FLAGS.dtype,
        **overrides,
    )
    return nepa_keras.NepaPretrainer(
        backbone,
        shift=FLAGS.shift,
        stop_gradient=FLAGS.stop_gradient,
        masking_ratio=FLAGS.masking_ratio,
        seed=FLAGS.seed,
    )


def build_batches(source, image_shape, record: Path | None, processes) -> data.AugmentedBatches:
    """Batches of floats for this process; bad images are named in the file `record`, if any."""
    images = source.train_images if isinstance(source, data.ImageArrays) else source
    share = FLAGS.bad_images_share if FLAGS.bad_images == "skip" else 0.0
    return data.AugmentedBatches(
        images,
        processes.images_of_process(FLAGS.batch_size),
        image_shape[:2],
        shard=processes[:2],
        seed=FLAGS.seed,
        channels=image_shape[2],
        bad_images=data.BadImages(len(images), share, record),
    )


def build_monitor(source) -> evaluation.FeatureMonitor | None:
    """Of --monitor_images of the test images of a data set in memory."""
    if not FLAGS.monitor_images:
        return None
    if not isinstance(source, data.ImageArrays):
        raise ValueError(f"--monitor_images is for {', '.join(PRESETS)}, which fit into memory.")
    images, labels = (x[: FLAGS.monitor_images] for x in (source.test_images, source.test_labels))
    try:
        return evaluation.FeatureMonitor(images, labels, linear_probe=True)
    except ValueError as error:
        print(f"--monitor_images={FLAGS.monitor_images} watches no linear probe: {error}")
        return evaluation.FeatureMonitor(images, labels)


def number_of_updates(batches_per_epoch: int) -> int:
    """From --steps or --epochs."""
    if FLAGS.epochs is None:
        return FLAGS.steps or 1600
    if FLAGS.steps is not None:
        raise ValueError("--steps and --epochs both say how long to train; give one of them.")
    updates = int(FLAGS.epochs * batches_per_epoch) // FLAGS.accumulation_steps
    if updates < 1:
        raise ValueError(f"--epochs={FLAGS.epochs} of this data is less than one update; raise it.")
    return updates


def compile_model(model, updates: int, processes) -> None:
    """AdamW of the recipe at the scaled rate."""
    effective_batch = FLAGS.batch_size * FLAGS.accumulation_steps
    rate = training.scaled_learning_rate(FLAGS.base_learning_rate, effective_batch)
    model.compile(
        optimizer=training.adamw(
            training.WarmupCosine(rate, updates, FLAGS.warmup_ratio),
            weight_decay=FLAGS.weight_decay,
            beta_2=FLAGS.beta_2,
            clip_norm=FLAGS.clip_norm or None,
            ema_decay=FLAGS.ema_decay,
            accumulation_steps=FLAGS.accumulation_steps,
        ),
        jit_compile="auto" if FLAGS.jit_compile is None else FLAGS.jit_compile,
    )
    print(
        f"{describe_batch(FLAGS.batch_size, FLAGS.accumulation_steps, processes)}, {updates} updates, "
        f"peak learning rate {FLAGS.base_learning_rate:g} * {effective_batch} / 256 = {rate:.3g}\n\n"
        f"{model.optimizer.table(model)}\n"
    )
    warn_of_departures("pretrain", model.backbone, effective_batch)


def what_was_it_worth(model, source, before: dict[str, float]) -> list[tuple[str, ...]]:
    """The rows of the table; the model holds the EMA weights."""
    few_label = evaluation.few_label_comparison(
        model.backbone,
        source,
        num_labels=FLAGS.num_labels,
        steps=FLAGS.finetune_steps,
        batch_size=min(50, FLAGS.num_labels),
        learning_rate=FLAGS.finetune_learning_rate,
        augment=False,
    )
    return evaluation.worth_rows(
        few_label,
        before,
        evaluation.frozen_accuracies(model.backbone, source),
        num_labels=FLAGS.num_labels,
        steps=FLAGS.finetune_steps,
        num_test_images=len(source.test_images),
    )


def replay() -> bool:
    """Computes the step of --replay again; returns whether it is not finite again."""
    with one_sentence():
        training.replay.read_report(FLAGS.replay)
        repeat_flags(Path(FLAGS.replay) / "flags.txt")
        source = load_data()
        keras.utils.set_random_seed(FLAGS.seed)
        model = build_model(source)
        alone = nepa_keras.distribute("none")
        batches = build_batches(source, model.backbone.image_shape, None, alone)
        compile_model(model, number_of_updates(len(batches)), alone)
        step = training.Replay(
            model, FLAGS.replay, lambda step: batches.seek(step).endless(), batches.describe
        )
    with honest_exit(batches):
        return step.run()


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Flags start with --; this does not: {argv[1]}")
    if FLAGS.replay:
        sys.exit(NOT_FINITE if replay() else 0)
    with one_sentence():
        require_experiments_extra()
        processes = start_processes()
        source = load_data()
        evaluates = isinstance(source, data.ImageArrays) and FLAGS.evaluate is not False
        if evaluates:  # a wrong number is noticed now, not after the training
            evaluation.class_balanced_subset(source.train_labels, FLAGS.num_labels, seed=0)
        keras.utils.set_random_seed(FLAGS.seed)
        model = build_model(source)
        shape = model.backbone.image_shape
        name = f"runs/pretrain_{FLAGS.data.partition(':')[0]}_{time.strftime('%Y%m%d-%H%M%S')}"
        run_dir = Path(FLAGS.run_dir or name).expanduser()
        batches = build_batches(source, shape, run_dir / "bad_images.txt", processes)
        updates = number_of_updates(len(batches))
    print(
        f"{keras.backend.backend()}: {FLAGS.data}, {len(batches) * FLAGS.batch_size:,} images "
        f"a pass, as {shape[0]}x{shape[1]}x{shape[2]}\n"
        f"{model.backbone.name}: {model.count_params():,} parameters, "
        f"{model.backbone.num_layers} blocks of width {model.backbone.hidden_dim}, "
        f"patch {model.backbone.patch_size}, {FLAGS.dtype}"
    )
    with one_sentence():
        monitor = build_monitor(source)
        compile_model(model, updates, processes)
        open_run_dir(run_dir, processes.number)

    with training.on_one_device(model) as whole:
        before = evaluation.frozen_accuracies(whole.backbone, source) if evaluates else {}
    steps = updates * FLAGS.accumulation_steps
    with honest_exit(batches):
        training.fit_steps(
            model,
            lambda step: batches.seek(step).endless(),
            steps,
            FLAGS.batch_size,
            run_dir,
            seconds_waited=lambda: batches.seconds_waited,
            mfu=evaluation.ModelFlopsUtilization(model.backbone, processes.devices),
            callbacks=[monitor] if monitor else [],
            keep_last=FLAGS.keep_last,
            keep_every=FLAGS.keep_every,
            describe_batch=batches.describe,
            replay_with="experiments/pretrain.py --replay=",
        )
        with training.on_one_device(model) as whole:
            if processes.number == 0:
                finish(whole, source, batches, evaluates, before, run_dir)


def finish(model, source, batches, evaluates: bool, before: dict, run_dir: Path) -> None:
    """Pictures, the averaged weights, what they are worth, and the report of it all."""
    if bad := batches.bad_images.lines:
        print(f"{len(bad)} bad images were replaced by others: {run_dir / 'bad_images.txt'}")

    visualization.plot_curves(run_dir / "log.csv", run_dir / "curves.png")
    with training.ema_weights(model):
        interop.export_huggingface(model, run_dir / "ema")
        if isinstance(source, data.ImageArrays):
            examples = data.normalize(source.test_images[:4], model.backbone.image_shape[:2])
            captions = [source.class_names[label] for label in source.test_labels[:4]]
        else:
            examples, captions = batches[0][:4], ()
        visualization.plot_similarity(model, examples, run_dir / "similarity.png")
        tables = {}
        if evaluates:
            tables["What was it worth"] = rows = what_was_it_worth(model, source, before)
            print(evaluation.worth_table(rows), flush=True)
        visualization.log_pictures(run_dir)
        visualization.write_report(run_dir, model, examples, captions, tables)
    print(f"\nkept in {run_dir}")


if __name__ == "__main__":
    app.run(main)
