r"""Fine-tune a pretrained NEPA backbone as an image classifier.

    KERAS_BACKEND=jax python experiments/finetune.py --model=runs/mine/ema \
        --flagfile=experiments/recipes/finetune_embedded.flags
    KERAS_BACKEND=jax python experiments/finetune.py --model=runs/paper_base/ema \
        --flagfile=experiments/recipes/paper_finetune_base.flags \
        --data=imagenet:/data --validation_data=imagenet:/data

--model is required. By default the script trains on the 10 000 labelled images that ship with the library, 10
% of them held out to choose the best weights. At the end it prints the validation accuracy of the trained,
the averaged and the best weights, and the command that evaluates them on test images. The run's folder has
`best/` (trained or averaged weights of the best validation), `ema/` and `trained/` (averaged and trained
weights at the end), each a folder for `from_preset` and evaluate.py, and report.html.

For ImageNet-1k there are the recipes of the paper (recipes/paper_finetune_*: causal attention, last patch,
linearly rising layer decay, one warm-up) and of the authors' released scripts (recipes/released_finetune_*:
bidirectional attention, mean of the patches, fixed layer decay, a warm-up for each block). The defaults have
the form of the released scripts, with learning rates and a length for small data sets.

For several labels per image, such as those in column `tags` of a CSV file, separated by a bar:

    KERAS_BACKEND=jax python experiments/finetune.py --model=runs/mine/ema --data=csv:labels.csv \
        --label_column=tags --multi_label --label_separator='|'
"""

import before_keras  # noqa: F401
import class_scores
import command_line
import durations
import finetuning_data
import keras
import numpy as np
import runs
from absl import flags
from command_line import next_command, require_experiments_extra, user_errors
from given_model import settle_model
from inputs import SEES_MORE, check_weights, say, say_sight, some_names, test_split
from label_flags import flags_to_repeat
from number_flags import FACTOR, RATE, define_number
from progress import ShownBatches
from recipe_check import warn_of_departures
from shared_flags import (
    define_image_flags,
    define_image_size_flag,
    define_model_flags,
    define_recipe_flags,
    define_training_flags,
)

import nepa_keras
from nepa_keras import evaluation, interop, performance, training, visualization
from nepa_keras.files import replacing

FLAGS = flags.FLAGS
EPOCHS, WARMUP_RATIO = 20, 0.2  # defaults of --epochs and --warmup_ratio

define_model_flags()
define_image_size_flag()
finetuning_data.define_flags()
define_image_flags()
define_training_flags(
    run_dir="runs/finetune_DATA_TIME", batch_size=128, beta_2=0.999, clip_norm=1.0
)
define_recipe_flags(
    base_learning_rate=2e-3,
    warmup_ratio=WARMUP_RATIO,
    default_length=f"{EPOCHS} epochs",
)
define_number(
    "head_learning_rate",
    1e-3,
    "Peak learning rate of the classifier and the final norm; not scaled by the batch size.",
    RATE,
)
define_number(
    "layer_decay",
    0.75,
    "Layer-wise learning rate decay: ratio of a block's learning rate to that of the block above.",
    FACTOR,
)
define_number(
    "final_layer_decay",
    None,
    "Layer decay at the end of the run, towards which it changes from --layer_decay; needs --noown_warmup. "
    "Default it stays constant.",
    FACTOR,
)
flags.DEFINE_enum(
    "layer_decay_course",
    "cosine",
    ["cosine", "linear"],
    "Schedule from --layer_decay to --final_layer_decay: half a cosine or a straight line.",
)
flags.DEFINE_boolean(
    "own_warmup",
    True,
    "Give each block its own warm-up, longer for lower blocks; with --noown_warmup all share one.",
)
flags.DEFINE_list(
    "freeze",
    ["patch_embedding/kernel", "patch_embedding/bias"],
    "Paths of variables or layers that are not trained; --freeze= trains all.",
)
flags.DEFINE_integer(
    "lora_rank",
    None,
    "Rank of low-rank adapters (LoRA) that are trained instead of the backbone's weights; default none.",
    lower_bound=1,
)
flags.DEFINE_enum(
    "quantize",
    None,
    ["int8"],
    "Save the best weights in 8-bit integers too, as RUN_DIR/int8.keras, a quarter of the size.",
)
flags.DEFINE_boolean(
    "causal",
    False,
    "Causal attention, as in pretraining; default every patch attends to all patches.",
)
flags.DEFINE_enum(
    "pooling",
    None,
    ["mean", "last"],
    "Features for the classifier head: the mean of the patches with its own norm, or the last patch. Default "
    "as in --model if that is a classifier, else mean.",
)
flags.DEFINE_boolean(
    "qk_norm_scale",
    True,
    "Learn a scale in QK-norm, initially 1 if --model has none; --noqk_norm_scale adds none to such a model.",
)


def build_model(num_classes: int, class_names, ema: bool) -> nepa_keras.NepaImageClassifier:
    if not FLAGS.model:
        raise ValueError(
            "--model is required: the folder of a pretraining run, one of its checkpoints, a preset's name "
            "or hf://owner/name."
        )
    check_weights("--model", FLAGS.model, FLAGS.from_scratch)
    if FLAGS.from_scratch and FLAGS.lora_rank:
        raise ValueError("--lora_rank adapts trained weights, which --from_scratch does without.")
    overrides = {} if FLAGS.pooling is None else {"pooling": FLAGS.pooling}
    if not FLAGS.qk_norm_scale:
        overrides["qk_norm_scale"] = False
    model = nepa_keras.NepaImageClassifier.from_preset(
        FLAGS.model,
        load_weights=not FLAGS.from_scratch,
        ema=ema,
        image_size=FLAGS.image_size,
        num_classes=num_classes,
        use_causal_mask=FLAGS.causal,
        frozen=() if FLAGS.from_scratch else tuple(filter(None, FLAGS.freeze)),
        drop_path_rate=FLAGS.drop_path,
        lora_rank=FLAGS.lora_rank,
        dtype=FLAGS.dtype,
        multi_label=FLAGS.multi_label,
        **overrides,
    )
    if model.class_names and class_names and model.class_names != tuple(class_names):
        print(
            f"{FLAGS.model} has other classes ({some_names(model.class_names)}): a new head is trained"
        )
        for variable in model.head.weights:
            variable.assign(np.zeros(variable.shape))
    model.class_names = None if class_names is None else tuple(class_names)
    return model


def compile_model(model, batch_size: int, updates: int, warmup: dict, processes) -> None:
    """Compile with the recipe's AdamW and a learning rate for each block."""

    def schedule(rate: float, updates: int):
        return training.LayerwiseWarmupCosine(
            rate,
            updates,
            model.backbone.num_layers,
            FLAGS.layer_decay,
            FLAGS.head_learning_rate,
            **warmup,
            own_warmup=FLAGS.own_warmup,
            final_layer_decay=FLAGS.final_layer_decay,
            layer_decay_course=FLAGS.layer_decay_course,
        )

    kind = "BinaryCrossentropy" if FLAGS.multi_label else "CategoricalCrossentropy"
    loss = getattr(keras.losses, kind)(from_logits=True)
    effective_batch = runs.compile_and_describe(
        model, schedule, batch_size, updates, processes, loss
    )
    came_to = {
        "freeze": list(model.frozen),
        "pooling": model.pooling,
        "qk_norm_scale": model.backbone.qk_norm_scale,
    }
    warn_of_departures("finetune", model.backbone, effective_batch, **came_to)


def main():
    with user_errors():
        require_experiments_extra()
        run = runs.run_dir_of_flags(f"finetune_{FLAGS.data.partition(':')[0]}")
        given = settle_model()
        runs.end_if_finished(run)
        processes = runs.start_processes()
        say(given.notes)
        source, validation = finetuning_data.open_data()
        keras.utils.set_random_seed(FLAGS.seed)
        classes = finetuning_data.number_of_classes(source, validation)
        validation = finetuning_data.number_as_in_training(validation, source, classes)
        model = build_model(classes, source.class_names, given.ema)
        shape = model.backbone.image_shape
        converter = finetuning_data.build_converter(shape)
        batches, batches_from = finetuning_data.build_batches(
            source, model, runs.bad_images(source, run.bad_images), processes
        )
        batch_size = batches.batch_size * processes.count
        # Every process validates with all images.
        bad_validation = None if processes.number else run.bad_validation_images
        ordered = ShownBatches(
            validation,
            batch_size,
            shape[:2],
            converter.transform(),
            shape[2],
            bad_images=runs.bad_images(validation, bad_validation),
            value_range=FLAGS.value_range,
        )
        updates, warmup = durations.updates_and_warmup(
            batches.steps_per_epoch, default_epochs=EPOCHS, default_ratio=WARMUP_RATIO
        )
    print(
        f"{keras.backend.backend()}: {FLAGS.data}, {len(source):,} training images, "
        f"{len(validation):,} validation images, {model.num_classes} classes, "
        f"as {shape[0]}x{shape[1]}x{shape[2]}\n"
        f"{FLAGS.model}{' from scratch' if FLAGS.from_scratch else ''}: {model.count_params():,} parameters, "
        f"{model.backbone.num_layers} blocks of width {model.backbone.hidden_dim}, {FLAGS.dtype}, "
        f"{runs.describe_attention(model.backbone)}"
    )
    say_sight("--data", FLAGS.data, source, shape[-1], shape[:2], SEES_MORE)
    with user_errors():
        compile_model(model, batch_size, updates, warmup, processes)
        runs.open_run_dir(run, processes.number)

    def measure(trained) -> dict[str, float]:
        logits, indices = evaluation.predict_batches(trained, ordered)
        return class_scores.results(logits, validation.labels[indices])

    validate = training.Validation(
        measure,
        class_scores.main_result()[0],
        save_best=lambda best: interop.replace_huggingface(best, run.best, converter),
    )
    runs.train(
        model,
        batches,
        updates * FLAGS.accumulation_steps,
        batch_size,
        run,
        processes,
        finish=lambda whole: finish(whole, batches, ordered, converter, validate, run),
        batches_from=batches_from,
        mfu=performance.ModelFlopsUtilization(model.backbone, processes.devices),
        callbacks=[validate],
        validation=validation,
        preprocessor=converter.official_config(),
    )


def evaluation_command(run: training.RunDir) -> str:
    """Shell command that evaluates the best weights."""
    text = FLAGS.validation_data or FLAGS.data
    split = {"split": FLAGS.validation_split} if FLAGS.validation_split else {}
    return next_command("evaluate.py", model=run.best, data=text, **split, **flags_to_repeat(text))


def finish(model, batches, ordered, converter, validate, run: training.RunDir) -> None:
    """Write curves, trained and averaged weights and the report, and print the validation results."""
    runs.report_bad_images(batches.bad_images, "bad images were replaced by others", run.bad_images)
    runs.report_bad_images(
        ordered.bad_images, "images were not validated with", run.bad_validation_images
    )
    visualization.plot_curves(run.log, run.curves, model.optimizer)
    interop.replace_huggingface(model, run.trained, converter)
    with training.ema_weights(model):
        interop.replace_huggingface(model, run.ema, converter)
    if validate.best is None:
        raise SystemExit(f"finetune.py: every update was skipped as not finite; see {run.log}.")
    last, best = validate.last, validate.best
    key, words = class_scores.main_result()
    print(
        f"validation {words}: trained {100 * last[f'val_{key}']:.2f} %, averaged "
        f"{100 * last[f'ema_val_{key}']:.2f} %; best {100 * validate.best_result:.2f} %, of the "
        f"{validate.best_weights} weights at step {int(best['step'])}: {run.best}\nsaved in {run}"
    )
    if FLAGS.quantize:
        small = nepa_keras.NepaImageClassifier.from_preset(run.best)
        small.quantize(FLAGS.quantize)
        with replacing(run.int8) as unfinished:
            small.save(unfinished)
        result = validate.measure(small)[key]
        print(f"best weights in 8-bit integers: {100 * result:.2f} %: {run.int8}")
    if FLAGS.validation_data or test_split(FLAGS.data):
        print(f"next: {evaluation_command(run)}")
    images, indices = next(iter(ordered))
    labels = ordered.source.labels[indices[:4]]
    names = ordered.source.class_names or [f"class {k}" for k in range(model.num_classes)]
    rows = [
        (f"{words} on validation images in %", *class_scores.headings().values(), "at step"),
        class_scores.score_row("trained weights", last, "val"),
        class_scores.score_row("averaged weights", last, "ema_val"),
        class_scores.score_row(f"best {validate.best_weights} weights", best, validate.best_prefix),
    ]
    captions = [class_scores.caption(label, names) for label in labels]
    tables = {"Validation results": rows}
    with training.ema_weights(model):
        visualization.write_report(run, model, images[:4], captions, tables)


if __name__ == "__main__":
    command_line.run(main)
