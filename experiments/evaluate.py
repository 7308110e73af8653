r"""Evaluate classifiers on labelled images, write their predictions, or report a pretraining loss.

    KERAS_BACKEND=jax python experiments/evaluate.py --model=runs/mine/best --data=embedded
    KERAS_BACKEND=jax python experiments/evaluate.py --model=hf://SixAILab/nepa-base-patch14-224-sft \
        --weights=trained --weights=ema --data=imagenet:/data --confusion=confusion.png

    KERAS_BACKEND=jax python experiments/evaluate.py --model=runs/mine/best --data=folder:new_pictures \
        --predictions=predictions.csv
    KERAS_BACKEND=jax python experiments/evaluate.py --model=runs/pretrained --data=folder:held_out_pictures

--model is required; by default it is evaluated on the 2 000 test images that ship with the library. The
script prints top-1 and top-5 accuracy, the calibration error (ECE) and the classes that do worst; with
several models, separated by commas, also one table that compares them. A model without a head, as pretrain.py
writes it, gets its pretraining loss, for which no labels are needed. Images are preprocessed by the model's
preprocessor_config.json. --predictions writes predictions to a CSV file and needs no labels.
"""

import json
from pathlib import Path

import before_keras  # noqa: F401
import class_scores
import keras
from absl import flags
from command_line import check_file_to_write, exit_with_status, next_command, run, user_errors
from given_model import MODEL, WEIGHTS, GivenModel, given_model
from inputs import (
    SEES_MORE,
    check_data,
    check_trained_as,
    check_weights,
    define_classes_flag,
    open_labelled,
    say,
    say_range,
    say_sight,
    test_split,
    with_classes_of_model,
)
from label_flags import define_label_flags, source_options
from number_flags import SHARE, define_number
from progress import ShownBatches
from shared_flags import (
    define_cache_flags,
    define_data_dir_flag,
    define_dtype_flag,
    define_image_size_flag,
    define_value_range_flag,
)

import nepa_keras
from nepa_keras import data, evaluation, interop, training, visualization
from nepa_keras.packages import required_for
from nepa_keras.tables import text_table

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "model",
    None,
    f"Classifiers or pretrained models to evaluate, separated by commas; each {MODEL}",
    required=True,
)
flags.DEFINE_multi_enum(
    "weights",
    None,
    ["trained", "ema", "raw"],
    f"Give the flag twice to evaluate both; raw means the same as trained. {WEIGHTS}",
)
flags.DEFINE_string(
    "data",
    "embedded",
    "Images, such as folder:PATH with a folder for each class; the same kinds as for --data of pretrain.py. "
    "Pretrained models need no labels.",
)
flags.DEFINE_string(
    "split", None, "Split of --data, for sources with several splits; default their test split."
)
define_cache_flags()
define_data_dir_flag()
define_label_flags(several=True)
define_value_range_flag()
define_image_size_flag()
define_classes_flag()
flags.DEFINE_integer("batch_size", 128, "Images per batch.", lower_bound=1)
define_dtype_flag()
flags.DEFINE_enum(
    "quantize", None, ["int8"], "Quantize the dense layers to 8-bit integers before evaluation."
)
define_number(
    "bad_images_share",
    0.001,
    "Largest fraction of unreadable images that is left out; beyond it the script stops.",
    SHARE,
)
flags.DEFINE_string(
    "confusion", None, "PNG file for a picture of the confusion matrix (of the last model)."
)
flags.DEFINE_string(
    "predictions",
    None,
    "CSV file for predictions: a row per image with its name, label, predicted class, probability, and the "
    "five most likely classes. The images need no labels then.",
)
flags.DEFINE_string(
    "json", None, "JSON file for the scores of all models; rewritten after each model."
)


def check_outputs() -> None:
    """Check before the evaluation that its results can be written.

    Raises:
        ValueError: flags contradict each other, or a folder is missing.
        ImportError: a package for --confusion is missing.
    """
    if FLAGS.predictions and (len(FLAGS.model) > 1 or len(FLAGS.weights or ()) > 1):
        raise ValueError(
            "--predictions takes one model; give one value for each of --model and --weights."
        )
    check_file_to_write("--predictions", FLAGS.predictions)
    check_file_to_write("--json", FLAGS.json)
    if FLAGS.confusion and FLAGS.multi_label:
        raise ValueError("--confusion needs one class per image; leave it out with --multi_label.")
    if FLAGS.confusion:
        with required_for("--confusion", "matplotlib"):
            import matplotlib  # noqa: F401, fails now, not after the evaluation
        check_file_to_write("--confusion", FLAGS.confusion)


def load_classifier(given: GivenModel, source) -> tuple:
    """Load a classifier; return it with the source, its labels renumbered, and the class names."""
    preset = given.preset
    check_trained_as(
        "--model",
        preset,
        nepa_keras.NepaImageClassifier,
        "classifier",
        f"make one by {next_command('finetune.py', model=preset, data=FLAGS.data)}",
    )
    model = nepa_keras.NepaImageClassifier.from_preset(
        preset, ema=given.ema, image_size=FLAGS.image_size, dtype=FLAGS.dtype
    )
    if FLAGS.quantize:
        model.quantize(FLAGS.quantize)
    if source.labels is not None and model.multi_label != source.multi_label:
        remedy = (
            "add --multi_label"
            if model.multi_label
            else "leave out --multi_label, or fine-tune with it"
        )
        kind = "several classes" if model.multi_label else "one class"
        raise ValueError(f"--model={preset} was trained for {kind} per image; {remedy}.")
    if source.labels is not None:
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
        print(
            f"classes are matched by number: {names[0]} (model) with {theirs[0]} (data), and so on"
        )
    if not names and theirs and len(theirs) == model.num_classes:
        names = theirs
    return model, source, names


def batches_for(preset: str, model, source) -> ShownBatches:
    """Batches of the images, preprocessed by the model's preprocessor_config.json."""
    converter = data.NepaImageConverter.from_preset(preset, FLAGS.image_size)
    value_range = FLAGS.value_range or converter.value_range
    say_range(source, value_range)
    *size, channels = model.backbone.image_shape
    say_sight("--data", FLAGS.data, source, channels, tuple(size), SEES_MORE)
    return ShownBatches(
        source,
        min(FLAGS.batch_size, len(source)),
        tuple(size),
        converter.transform(),
        channels,
        bad_images=data.BadImages(len(source), FLAGS.bad_images_share),
        value_range=value_range,
    )


def chosen_models() -> list[GivenModel]:
    """Find the weights that --model and --weights select."""
    chosen = []
    for name in FLAGS.model:
        for weights in dict.fromkeys(FLAGS.weights or [None]):
            chosen.append(given_model("--model", name, "trained" if weights == "raw" else weights))
            check_weights("--model", chosen[-1].preset)
    return chosen


def are_pretrained(chosen: list[GivenModel]) -> bool:
    """Tell whether the models have no head, in which case their pretraining loss is evaluated.

    Raises:
        ValueError: only some of them have a head, or a flag is given that applies to classifiers.
    """
    kinds = [interop.model_class(given.preset) for given in chosen]
    headless = [kind in (nepa_keras.NepaPretrainer, nepa_keras.NepaBackbone) for kind in kinds]
    if not any(headless):
        return False
    bare = chosen[headless.index(True)].preset
    if not all(headless):
        other = headless.index(False)
        raise ValueError(
            f"--model={bare} is a pretrained model without a head, and {chosen[other].preset} is a "
            f"{kinds[other].__name__}; evaluate them separately."
        )
    for name in ("predictions", "confusion", "multi_label", "classes_by_number", "quantize"):
        if FLAGS[name].value:
            raise ValueError(
                f"--{name} applies to a classifier, but --model={bare} is a pretrained model without a head; "
                f"make a classifier by {next_command('finetune.py', model=bare, data=FLAGS.data)}."
            )
    return True


def trained_for_another_loss(preset: str) -> str:
    """Flag with which a run trained on another objective than NEPA; "" if there is none."""
    run = training.RunDir(Path(preset).expanduser().resolve().parent).read_flags()
    others = ("--objective=lenepa", "--objective=nepa_patches", "--noshift")
    return next((line for line in run.lines if line in others), "") if run else ""


def evaluate_pretrained(chosen: list[GivenModel], where: str, split: str | None) -> None:
    """Print the pretraining loss of each model, and write them to --json."""
    with user_errors():
        check_data("--data", FLAGS.data)
        source = data.open_source(FLAGS.data, split or "train", **source_options(FLAGS.data))
        say(source.notes)
    held = {}
    for given in chosen:
        with user_errors():
            say(given.notes)
            model = nepa_keras.NepaPretrainer.from_preset(
                given.preset, ema=given.ema, image_size=FLAGS.image_size, dtype=FLAGS.dtype
            )
            model.compile()
            batches = batches_for(given.preset, model, source)
        with exit_with_status():
            logs = evaluation.pretraining_loss(model, batches)
        print_left_out(batches)
        count = len(source) - len(batches.bad_images.reasons)
        held[weights_name(given)] = {"images": count, **logs}
        print(
            f"{keras.backend.backend()}: {weights_name(given)} on {where}\n{count:,} images: pretraining "
            f"loss {logs['loss']:.4f} (-1 is the best), prediction spread "
            f"{logs['prediction_spread']:.3f}, target spread {logs['target_spread']:.3f}"
        )
        if flag := trained_for_another_loss(given.preset):
            print(f"This is the loss of NEPA, but the run was trained on another objective: {flag}")
        print(flush=True)
        if FLAGS.json:
            Path(FLAGS.json).expanduser().write_text(json.dumps(held, indent=1))


def weights_name(given: GivenModel) -> str:
    """Name of a model in tables and files."""
    return f"{given.preset} (ema)" if given.ema else given.preset


def print_left_out(batches) -> None:
    """Name the images that could not be read."""
    for reason in batches.bad_images.reasons.values():
        print(f"left out: {reason}")


def main():
    with user_errors():
        check_outputs()
        split = FLAGS.split or test_split(FLAGS.data)
        where = f"{FLAGS.data}{f', {split}' if split else ''}"
        chosen = chosen_models()
        pretrained = are_pretrained(chosen)
    if pretrained:
        evaluate_pretrained(chosen, where, split)
        return
    with user_errors():
        images = open_labelled(
            "--data",
            FLAGS.data,
            split,
            needed=not FLAGS.predictions,
            **source_options(FLAGS.data),
        )
        if images.labels is None and (FLAGS.confusion or FLAGS.json):
            raise ValueError(
                f"--data={FLAGS.data} has no labels, which --confusion and --json need."
            )
    reports = {}
    for given in chosen:
        with user_errors():
            say(given.notes)
            model, source, names = load_classifier(given, images)
            batches = batches_for(given.preset, model, source)
        with exit_with_status():
            logits, indices = evaluation.predict_batches(model, batches)
        print_left_out(batches)
        name = weights_name(given)
        labels = None if source.labels is None else source.labels[indices]
        report = f"{len(logits):,} images without labels"
        if labels is not None:
            report = reports[name] = class_scores.report_of(logits, labels, names)
        print(f"{keras.backend.backend()}: {name} on {where}\n{report}\n", flush=True)
        if FLAGS.json:
            held = {name: each.figures() for name, each in reports.items()}
            Path(FLAGS.json).expanduser().write_text(json.dumps(held, indent=1))
    if FLAGS.predictions:
        evaluation.write_predictions(
            FLAGS.predictions,
            [source.name(int(index)) for index in indices],
            logits,
            labels,
            names,
            model.multi_label,
            FLAGS.label_separator or "|",
        )
        print(f"written: {FLAGS.predictions}, {len(logits):,} images")
    if len(reports) > 1:
        print(text_table(class_scores.comparison(reports)))
    if FLAGS.confusion:
        visualization.plot_confusion(report.confusion, report.class_names, FLAGS.confusion)
        print(f"drawn: {FLAGS.confusion}")


if __name__ == "__main__":
    run(main)
