r"""Pretrain a NEPA model on images.

    KERAS_BACKEND=jax python experiments/pretrain.py
    KERAS_BACKEND=jax python experiments/pretrain.py --run_dir=runs/paper_base \
        --flagfile=experiments/recipes/paper_pretrain_base.flags --data=folder:/path/to/images

The images need no labels. Without flags the script runs recipes/pretrain_embedded.flags: 10 000 images of
Fashion-MNIST that ship with the library, about five minutes on two CPU cores. At the end it prints how much
pretraining improves few-label fine-tuning, the linear probe and k-NN over random weights (for data with
labels), and the run's folder. That holds the averaged weights (ema/, a folder for --model of the other
scripts), log.csv, curves.png, similarity.png and report.html. The same command resumes an interrupted run if
it names --run_dir.

For ImageNet-1k there are the recipes of the paper (recipes/paper_pretrain_*: SwiGLU, no flip, large for 800
epochs) and of the authors' released scripts (recipes/released_pretrain_*: GELU, flip, 1600 epochs). The
default flips images, like the released scripts.

With --model pretraining continues from given weights, on other images, at another size, or for longer. For
small sets of pictures use recipes/continue_pretrain_small.flags:

    KERAS_BACKEND=jax python experiments/pretrain.py --model=hf://SixAILab/nepa-base-patch14-224 \
        --flagfile=experiments/recipes/continue_pretrain_small.flags --base_learning_rate=3e-4 \
        --data=folder:/path/to/pictures

To recompute a training step whose loss or gradient was not finite, with the flags of its run:

    KERAS_BACKEND=jax python experiments/pretrain.py --replay=runs/base/non_finite/step-00000123
"""

import sys

import before_keras  # noqa: F401
import command_line
import durations
import keras
import objective
import pretraining_backbone
import runs
import transfer
from absl import flags
from command_line import (
    NOT_FINITE,
    exit_with_status,
    next_command,
    require_experiments_extra,
    user_errors,
)
from inputs import SEES_MORE, check_data, say, say_range, say_sight
from label_flags import define_label_flags, source_options
from recipe_check import warn_of_departures
from shared_flags import (
    define_cache_flags,
    define_crop_flag,
    define_data_dir_flag,
    define_image_flags,
    define_recipe_flags,
    define_training_flags,
    define_value_range_flag,
)

import nepa_keras
from nepa_keras import data, evaluation, interop, performance, training, visualization
from nepa_keras.data.sources import IN_MEMORY

FLAGS = flags.FLAGS
STEPS, WARMUP_RATIO = 1600, 0.1  # defaults of --steps and --warmup_ratio

flags.DEFINE_string(
    "data",
    "embedded",
    "Images to train on: embedded, digits, fashion_mnist, folder:PATH, imagenet:PATH, tfds:NAME, "
    "tfrecord:FILES, parquet:FILES, arrow:PATH, csv:FILE, h5:FILE or webdataset:FILES; FILES may be "
    "https://…, gs://… or s3://….",
)
define_cache_flags()
define_data_dir_flag()
define_label_flags(labels=False)
define_image_flags()
define_value_range_flag()
pretraining_backbone.define_flags()
define_training_flags(run_dir="runs/pretrain_DATA_TIME", batch_size=128, beta_2=0.95, clip_norm=1.0)
define_recipe_flags(base_learning_rate=8e-3, warmup_ratio=WARMUP_RATIO, default_length=f"{STEPS}")
define_crop_flag(None)
flags.DEFINE_boolean(
    "flip", True, "Flip each random resized crop horizontally with probability 0.5."
)

objective.define_flags()

flags.DEFINE_string(
    "replay", None, "Folder RUN_DIR/non_finite/step-... of a non-finite step to recompute."
)
transfer.define_flags()


def load_data() -> data.ImageArrays | data.ImageSource:
    """Open the images of --data.

    Raises:
        ValueError: a flag does not apply to this data, or one that it needs is missing.
    """
    check_data("--data", FLAGS.data)
    if FLAGS.data in IN_MEMORY:
        if FLAGS.image_column:
            raise ValueError(
                f"--image_column is for csv, h5, parquet and arrow, not for --data={FLAGS.data}."
            )
        return data.load(FLAGS.data, FLAGS.data_dir)
    if FLAGS.evaluate:
        raise ValueError(
            f"--evaluate is for {', '.join(IN_MEMORY)}, which fit into memory; for --data={FLAGS.data} "
            "add --noevaluate."
        )
    if not (FLAGS.preset or FLAGS.model):
        raise ValueError(
            f"--data={FLAGS.data} needs --preset, such as nepa_small_patch14_224, or --model, weights to "
            "continue from."
        )
    source = data.open_source(FLAGS.data, **source_options(FLAGS.data))
    say(source.notes)
    return source


def build_model(source, ema: bool) -> nepa_keras.NepaPretrainer:
    """Build the model of the flags; with --model and `ema`, from the averaged weights."""
    return objective.pretrainer(pretraining_backbone.build(source, ema), FLAGS.seed)


def build_batches(source, image_shape, record, processes) -> data.AugmentedBatches:
    """Batches of uint8 pixels for this process; `record`, if given, is the file that lists bad images."""
    images = source.train_images if isinstance(source, data.ImageArrays) else source
    area = {} if FLAGS.smallest_crop is None else {"area": (FLAGS.smallest_crop, 1.0)}
    crop = data.RandomResizedCrop(flip=0.5 if FLAGS.flip else 0.0, **area)
    return data.AugmentedBatches(
        images,
        processes.images_of_process(FLAGS.batch_size),
        image_shape[:2],
        shard=processes[:2],
        seed=FLAGS.seed,
        transform=crop,
        channels=image_shape[2],
        bad_images=runs.bad_images(images, record),
        value_range=FLAGS.value_range,
        dtype="uint8",
    )


def updates_and_warmup(batches) -> tuple[int, dict]:
    return durations.updates_and_warmup(
        len(batches), default_steps=STEPS, default_ratio=WARMUP_RATIO
    )


def compile_model(model, updates: int, warmup: dict, processes) -> None:
    """Compile with the recipe's AdamW at the scaled learning rate, and print departures from the recipes."""

    def schedule(rate: float, updates: int):
        return training.WarmupCosine(rate, updates, **warmup)

    effective_batch = runs.compile_and_describe(
        model, schedule, FLAGS.batch_size, updates, processes
    )
    names = ("gated_mlp", "qk_norm_scale")
    came_to = {name: getattr(model.backbone, name) for name in names}
    if not FLAGS.model:
        warn_of_departures("pretrain", model.backbone, effective_batch, **came_to)


def replay() -> bool:
    """Recompute the step of --replay; return True if it is not finite again."""
    with user_errors():
        training.replay.read_report(FLAGS.replay)
        runs.repeat_flags(FLAGS.replay)
        source = load_data()
        keras.utils.set_random_seed(FLAGS.seed)
        model = build_model(source, pretraining_backbone.settle().ema)
        alone = nepa_keras.distribute("none")
        batches = build_batches(source, model.backbone.image_shape, None, alone)
        compile_model(model, *updates_and_warmup(batches), alone)
        step = training.Replay(
            model, FLAGS.replay, lambda step: batches.seek(step).endless(), batches.describe
        )
    with exit_with_status(batches):
        return step.run()


def main():
    if FLAGS.replay:
        sys.exit(NOT_FINITE if replay() else 0)
    with user_errors():
        require_experiments_extra()
        run = runs.run_dir_of_flags(f"pretrain_{FLAGS.data.partition(':')[0]}")
        given = pretraining_backbone.settle()
        runs.end_if_finished(run)
        processes = runs.start_processes()
        say(given.notes)
        source = load_data()
        if isinstance(source, data.ImageSource):
            say_range(source, FLAGS.value_range)
        evaluates = isinstance(source, data.ImageArrays) and FLAGS.evaluate is not False
        if evaluates:  # refuses a wrong --num_labels now, not after training
            evaluation.class_balanced_subset(source.train_labels, FLAGS.num_labels, seed=0)
        keras.utils.set_random_seed(FLAGS.seed)
        model = build_model(source, given.ema)
        transfer.check_block(model.backbone, evaluates)
        shape = model.backbone.image_shape
        batches = build_batches(source, shape, run.bad_images, processes)
        updates, warmup = updates_and_warmup(batches)
    print(
        f"{keras.backend.backend()}: {FLAGS.data}, {len(batches) * FLAGS.batch_size:,} images "
        f"per epoch, as {shape[0]}x{shape[1]}x{shape[2]}\n"
        f"{FLAGS.model or model.backbone.name}: {model.count_params():,} parameters, "
        f"{model.backbone.num_layers} blocks of width {model.backbone.hidden_dim}, "
        f"patch {model.backbone.patch_size}, {FLAGS.dtype}, {runs.describe_attention(model.backbone)}"
    )
    if not isinstance(source, data.ImageArrays):
        remedy = "--channels=3, --image_size and --preset change this"
        if FLAGS.model:
            remedy = SEES_MORE
        say_sight("--data", FLAGS.data, source, shape[-1], shape[:2], remedy)
    with user_errors():
        monitor = transfer.build_monitor(source)
        compile_model(model, updates, warmup, processes)
        runs.open_run_dir(run, processes.number)
    with training.on_one_device(model) as whole:
        before = transfer.frozen(whole.backbone, source) if evaluates else None
    runs.train(
        model,
        batches,
        updates * FLAGS.accumulation_steps,
        FLAGS.batch_size,
        run,
        processes,
        finish=lambda whole: finish(whole, source, batches, before, run),
        mfu=performance.ModelFlopsUtilization(model.backbone, processes.devices),
        callbacks=[monitor] if monitor else [],
        replay_with=f"{next_command('pretrain.py')} --replay=",
        preprocessor=interop.preprocessor_config_of(model),
    )


def finish(model, source, batches, before: tuple | None, run: training.RunDir) -> None:
    """Write curves, averaged weights, pictures and the report, and print the gain from pretraining."""
    runs.report_bad_images(batches.bad_images, "bad images were replaced by others", run.bad_images)
    visualization.plot_curves(run.log, run.curves)
    with training.ema_weights(model):
        interop.replace_huggingface(model, run.ema)
        if isinstance(source, data.ImageArrays):
            examples = data.normalize(source.test_images[:4], model.backbone.image_shape[:2])
            captions = [source.class_names[label] for label in source.test_labels[:4]]
        else:
            examples, captions = batches[0][:4], ()
        if not model.training_only:  # predictions of a projector are no embeddings of patches
            visualization.plot_similarity(model, examples, run.picture("similarity"))
        tables = {}
        if before is not None:
            tables["Gain from pretraining"] = rows = transfer.measure(model, source, before)
            print(evaluation.transfer_table(rows), flush=True)
        visualization.write_report(run, model, examples, captions, tables)
    print(f"\nsaved in {run}")


if __name__ == "__main__":
    command_line.run(main)
