r"""How good a classifier is, on any labelled images.

    KERAS_BACKEND=jax python experiments/evaluate.py --model=runs/mine/best --data=embedded
    KERAS_BACKEND=jax python experiments/evaluate.py --model=hf://SixAILab/nepa-base-patch14-224-sft \
        --weights=trained --weights=ema --data=imagenet:/data --confusion=confusion.png

Several models, separated by commas, are compared in one table. Images are prepared as the model's
preprocessor_config.json says.
"""

import json
from pathlib import Path

import before_keras  # noqa: F401
import keras
from absl import flags
from command_line import honest_exit, next_command, one_sentence, run
from given_model import MODEL, WEIGHTS, given_model
from inputs import (
    check_trained_as,
    define_classes_flag,
    open_labelled,
    say,
    say_range,
    say_sight,
    test_split,
    with_classes_of_model,
)
from number_flags import SHARE, define_number
from progress import ShownBatches
from shared_flags import define_data_dir_flag, define_dtype_flag, define_value_range_flag

import nepa_keras
from nepa_keras import data, evaluation, visualization
from nepa_keras.packages import required_for
from nepa_keras.tables import text_table

FLAGS = flags.FLAGS
flags.DEFINE_list("model", None, f"Classifiers, separated by commas: {MODEL}", required=True)
flags.DEFINE_multi_enum(
    "weights", None, ["trained", "ema", "raw"], f"{WEIGHTS} Given twice: both. raw is trained."
)
flags.DEFINE_string("data", "embedded", "As of pretrain.py, with labels.")
flags.DEFINE_string("split", None, "Of sources that have several; default their test split.")
define_data_dir_flag()
define_value_range_flag()
define_classes_flag()
flags.DEFINE_integer("batch_size", 128, "Images at a time.", lower_bound=1)
define_dtype_flag()
flags.DEFINE_enum(
    "quantize", None, ["int8"], "Evaluates the model with its dense layers in 8-bit integers."
)
define_number("bad_images_share", 0.001, "Of all.", SHARE)
flags.DEFINE_string("confusion", None, "Picture to draw, of the last model.")
flags.DEFINE_string("json", None, "File to write the figures of all models to, as they come.")


def check_outputs() -> None:
    """Notices before the work what would fail after it."""
    if FLAGS.confusion:
        with required_for("--confusion", "matplotlib"):
            import matplotlib  # noqa: F401, now and not after the work
        Path(FLAGS.confusion).resolve().parent.mkdir(parents=True, exist_ok=True)
    if FLAGS.json and not Path(FLAGS.json).resolve().parent.is_dir():
        raise ValueError(f"--json={FLAGS.json} is in a folder that does not exist.")


def prepare(preset: str, ema: bool, source) -> tuple:
    """A model, the batches it takes, their source with the labels of its classes, and its class names."""
    check_trained_as(
        "--model",
        preset,
        nepa_keras.NepaImageClassifier,
        "classifier",
        f"make one by {next_command('finetune.py', model=preset, data=FLAGS.data)}",
    )
    model = nepa_keras.NepaImageClassifier.from_preset(preset, ema=ema, dtype=FLAGS.dtype)
    if FLAGS.quantize:
        model.quantize(FLAGS.quantize)
    source = with_classes_of_model(
        "--data",
        FLAGS.data,
        source,
        model.class_names,
        model.num_classes,
        FLAGS.classes_by_number,
    )
    names, theirs = model.class_names, source.class_names
    if names and theirs and not set(names) & set(theirs):
        print(f"classes are compared by number: {names[0]} and so on with {theirs[0]} and so on")
    if not names and theirs and len(theirs) == model.num_classes:
        names = theirs
    converter = data.NepaImageConverter.from_preset(preset)
    value_range = FLAGS.value_range or converter.value_range
    say_range(source, value_range)
    *size, channels = model.backbone.image_shape
    say_sight("--data", FLAGS.data, source, channels, tuple(size), "another --model sees more")
    batches = ShownBatches(
        source,
        min(FLAGS.batch_size, len(source)),
        tuple(size),
        converter.transform(),
        channels,
        bad_images=data.BadImages(len(source), FLAGS.bad_images_share),
        value_range=value_range,
    )
    return model, batches, source, names


def main():
    with one_sentence():
        check_outputs()
        split = FLAGS.split or test_split(FLAGS.data)
        images = open_labelled("--data", FLAGS.data, split, FLAGS.data_dir)
    where = f"{FLAGS.data}{f', {split}' if split else ''}"
    reports = {}
    for preset in FLAGS.model:
        for weights in dict.fromkeys(FLAGS.weights or [None]):
            with one_sentence():
                given = given_model("--model", preset, "trained" if weights == "raw" else weights)
                say(given.notes)
                model, batches, source, names = prepare(given.preset, given.ema, images)
            with honest_exit():
                logits, indices = evaluation.predict_batches(model, batches)
            for reason in batches.bad_images.reasons.values():
                print(f"left out: {reason}")
            name = f"{given.preset} (ema)" if given.ema else given.preset
            report = evaluation.classification_report(logits, source.labels[indices], names)
            reports[name] = report
            print(f"{keras.backend.backend()}: {name} on {where}\n{report}\n", flush=True)
            if FLAGS.json:
                held = {name: each.figures() for name, each in reports.items()}
                Path(FLAGS.json).write_text(json.dumps(held, indent=1))
    if len(reports) > 1:
        rows = [("model", "top-1", "top-5", "ECE")]
        for name, each in reports.items():
            figures = (each.top1, each.top5, each.calibration_error)
            rows.append((name, *(f"{100 * value:.2f}%" for value in figures)))
        print(text_table(rows))
    if FLAGS.confusion:
        visualization.plot_confusion(report.confusion, report.class_names, FLAGS.confusion)
        print(f"drawn: {FLAGS.confusion}")


if __name__ == "__main__":
    run(main)
