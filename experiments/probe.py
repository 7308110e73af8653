r"""What the frozen features of a NEPA backbone are worth: every probe of every feature, in one table.

    KERAS_BACKEND=jax python experiments/probe.py --model=runs/mine/ema
    KERAS_BACKEND=jax python experiments/probe.py --model=runs/mine/ema --probes=knn,linear,sgd,attentive \
        --blocks=norm --labels_per_class=1,10
    KERAS_BACKEND=jax python experiments/probe.py --model=hf://SixAILab/nepa-base-patch14-224 \
        --data=imagenet:/data --blocks=norm --probes=knn
    KERAS_BACKEND=jax python experiments/probe.py --model=runs/mine/ema --blocks=auto

Features are the mean of the patches, the last patch and the CLS token (not under a causal mask, where it sees
no image) of each block, with causal and with bidirectional attention. With --blocks=auto one block is taken
for each pool and attention, the best on images held out of the training images; test images choose nothing.
"""

import json
from pathlib import Path

import before_keras  # noqa: F401
import keras
import numpy as np
from absl import flags
from blocks import AUTO, given_blocks
from command_line import (
    exit_with_status,
    require_experiments_extra,
    run,
    user_errors,
)
from given_model import MODEL, define_weights_flag, settle_model
from inputs import (
    SEES_MORE,
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
from number_flags import POSITIVE, define_number, list_of_numbers
from progress import ShownBatches
from shared_flags import (
    define_cache_flags,
    define_data_dir_flag,
    define_image_size_flag,
    define_value_range_flag,
)
from time_left import counter, say_result, shown

import nepa_keras
from nepa_keras import data, evaluation
from nepa_keras.evaluation.linear_probe import INVERSE_PENALTIES
from nepa_keras.evaluation.trained_probes import EPOCHS
from nepa_keras.tables import mean_and_std

FLAGS = flags.FLAGS
PROBES = ("knn", "linear", "sgd", "attentive")

flags.DEFINE_string("model", None, f"Backbone: {MODEL}", required=True)
define_weights_flag()
flags.DEFINE_boolean("from_scratch", False, "Fresh weights of the architecture of --model.")
flags.DEFINE_string("data", "embedded", "Labelled images to learn from, as of pretrain.py.")
flags.DEFINE_string("test_data", None, "To test with; default the test split of --data.")
define_cache_flags()
define_data_dir_flag()
define_label_flags()
define_value_range_flag()
define_image_size_flag()
define_classes_flag()
flags.DEFINE_list("probes", ["knn", "linear"], f"Of {', '.join(PROBES)}.")
flags.DEFINE_list(
    "blocks",
    ["all"],
    "Numbers from 0, norm (after the last), all, or auto: the best of all on training images held out, by "
    "least squares, or by k-NN with --probes=knn. The attentive probe takes the norm, or auto's of mean.",
)
flags.DEFINE_list("pools", ["mean", "last", "cls"], "Of mean, last and cls.")
flags.DEFINE_enum("attention", "both", ["both", "causal", "bidirectional"], "Of the features.")
flags.DEFINE_list("k", ["1", "5", "20", "100"], "Neighbours.")
define_number("temperature", 0.07, "Of the neighbours' votes.", POSITIVE)
flags.DEFINE_list(
    "labels_per_class",
    [],
    "Fine-tune with so few, such as 1,5,10,100, from these weights and fresh.",
)
flags.DEFINE_integer("seeds", 3, "Subsets of so few labels.", lower_bound=1)
flags.DEFINE_integer("steps", 200, "Of each fine-tuning.", lower_bound=1)
flags.DEFINE_integer("batch_size", 128, "Images at a time.", lower_bound=1)
flags.DEFINE_string("json", None, "File to write all figures to, as they come.")


def numbers(name: str) -> tuple[int, ...]:
    """The counts of a list flag."""
    return list_of_numbers(name, int, POSITIVE)


def asked_blocks(num_layers: int | None = None) -> tuple[int, ...] | None:
    """Those of --blocks; None for all, from which auto chooses."""
    return None if FLAGS.blocks in (["all"], [AUTO]) else given_blocks(FLAGS.blocks, num_layers)


def open_both() -> tuple[data.ImageSource, data.ImageSource]:
    """Images to learn from and to test with, their classes numbered alike."""
    text = FLAGS.test_data or FLAGS.data
    if not (FLAGS.test_data or test_split(FLAGS.data)):
        raise ValueError(f"--data={FLAGS.data} has no splits; name --test_data too.")
    train = open_labelled("--data", FLAGS.data, "train", **source_options(FLAGS.data, text))
    options = source_options(text, FLAGS.data)
    test = open_labelled("--test_data", text, test_split(text), **options)
    classes = len(train.class_names) if train.class_names else int(train.labels.max()) + 1
    test = with_classes_of_model(
        "--test_data", text, test, train.class_names, classes, FLAGS.classes_by_number
    )
    return train, test


def batches_of(source, preset: str, backbone) -> data.OrderedBatches:
    *size, channels = backbone.image_shape
    transform, value_range = data.Resize(), FLAGS.value_range
    if (Path(preset).expanduser() / "preprocessor_config.json").exists() or ":" in preset:
        converter = data.NepaImageConverter.from_preset(preset, FLAGS.image_size)
        transform, value_range = converter.transform(), value_range or converter.value_range
    say_range(source, value_range)
    return ShownBatches(
        source,
        min(FLAGS.batch_size, len(source)),
        tuple(size),
        transform,
        channels,
        value_range=value_range,
    )


def score(train_x, train_y, test_x, test_y, probes) -> dict[str, float]:
    """Accuracies of the probes on one kind of features."""
    rows, found = (train_x, train_y, test_x, test_y), {}
    if "knn" in probes:
        for k in numbers("k"):
            if k <= len(train_x):
                found[f"{k}-NN"] = evaluation.knn_accuracy(
                    *rows, k=k, temperature=FLAGS.temperature
                )
    if "linear" in probes:
        penalties = shown(INVERSE_PENALTIES, len(INVERSE_PENALTIES), "linear probe, penalty")
        found["linear"] = evaluation.linear_probe_accuracy(*rows, inverse_penalties=penalties)
    if "sgd" in probes or "attentive" in probes:
        name = "attentive" if train_x.ndim == 3 else "sgd"
        count = counter(EPOCHS, f"{name} probe, epoch")
        epochs = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: count())
        found[name] = evaluation.sgd_probe_accuracy(*rows, callbacks=[epochs])
    return found


class Figures:
    """All that was measured, by name; each row is printed, and --json written again, as it comes."""

    def __init__(self):
        self.found: dict[str, dict] = {}
        self.columns: list[str] = []

    def add_row(self, name: str, accuracies: dict[str, float]) -> None:
        """Keep and print the accuracies of the probes of one kind of features."""
        if not self.columns:
            names = {"knn": [f"{k}-NN" for k in numbers("k")]}
            self.columns = [c for probe in FLAGS.probes for c in names.get(probe, [probe])]
            say_result(f"{'features':36}" + "".join(f"{c:>11}" for c in self.columns))
        cells = (f"{100 * accuracies[c]:.2f}%" if c in accuracies else "" for c in self.columns)
        say_result(f"{name:36}" + "".join(f"{cell:>11}" for cell in cells).rstrip())
        self.keep(name, accuracies)

    def keep(self, name: str, figures: dict) -> None:
        """Keep figures that are printed elsewhere."""
        self.found[name] = figures
        if FLAGS.json:
            Path(FLAGS.json).write_text(json.dumps(self.found, indent=1))


def features_of(extractor, batches) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of the images that can be read."""
    features, indices = evaluation.predict_batches(extractor, batches)
    return features, batches.source.labels[indices]


def choose(sets, train_x, train_y, mode: str) -> dict[str, evaluation.BlockChoice]:
    """The block of each pool that images held out of the training images choose; prints them."""
    probe, choices = "knn" if FLAGS.probes == ["knn"] else "linear", {}
    for pool in dict.fromkeys(pool for _, pool in sets.names):
        features = {b: train_x[:, i] for i, (b, p) in enumerate(sets.names) if p == pool}
        choices[pool] = evaluation.choose_features(features, train_y, probe)
        say_result(f"{mode}, {pool}: {choices[pool]}")
    return choices


def probe_all(backbone, train, test, figures: Figures) -> None:
    """All probes of all features; and the choices of blocks."""
    modes = {"both": (False, True), "causal": (True,), "bidirectional": (False,)}[FLAGS.attention]
    frozen = set(FLAGS.probes) - {"attentive"}
    chosen = {}
    for causal in modes:
        mode, choices = "causal" if causal else "bidirectional", {}
        if frozen or FLAGS.blocks == [AUTO]:
            sets = evaluation.FeatureSets(backbone, causal, asked_blocks(), tuple(FLAGS.pools))
            (train_x, train_y), (test_x, test_y) = (features_of(sets, b) for b in (train, test))
            names = list(enumerate(sets.names))
            if FLAGS.blocks == [AUTO]:
                choices = choose(sets, train_x, train_y, mode)
                chosen |= {f"{mode}, {pool}": found.figures() for pool, found in choices.items()}
                figures.keep("chosen blocks", chosen)
                names = [(i, (b, pool)) for i, (b, pool) in names if b == choices[pool].block]
            for i, (block, pool) in shown(names if frozen else (), len(names), "probed features"):
                figures.add_row(
                    f"{mode}, {evaluation.block_name(block)}, {pool}",
                    score(train_x[:, i], train_y, test_x[:, i], test_y, frozen),
                )
        if "attentive" in FLAGS.probes:
            block = choices["mean"].block if "mean" in choices else evaluation.AFTER_NORM
            extractor = evaluation.FeatureExtractor(backbone, "patches", causal, block)
            (train_x, train_y), (test_x, test_y) = (
                features_of(extractor, b) for b in (train, test)
            )
            figures.add_row(
                f"{mode}, {evaluation.block_name(block)}, all patches",
                score(train_x, train_y, test_x, test_y, {"attentive"}),
            )


def few_labels(backbone, figures: Figures) -> None:
    """Fine-tuning with few labels from these weights and from fresh ones; prints a line for each number."""
    for per_class in numbers("labels_per_class"):
        images = data.load(FLAGS.data, FLAGS.data_dir)
        count = per_class * len(images.class_names)
        found = evaluation.few_label_comparison(
            backbone,
            images,
            seeds=shown(range(FLAGS.seeds), FLAGS.seeds, f"{per_class} labels a class, seed"),
            num_labels=count,
            steps=FLAGS.steps,
            batch_size=min(50, count),
            learning_rate=2e-3,
            augment=False,
        )
        pretrained, scratch = (100 * np.array(found[key]) for key in ("pretrained", "scratch"))
        say_result(
            f"fine-tuning on {per_class} labels a class, {FLAGS.seeds} seeds, in %: "
            f"{mean_and_std(pretrained)}, from scratch {mean_and_std(scratch)}, gain "
            f"{mean_and_std(pretrained - scratch, sign='+')}"
        )
        figures.keep(f"fine-tuned, {per_class} a class", found)


def main():
    with user_errors():
        require_experiments_extra()
        if unknown := set(FLAGS.probes) - set(PROBES):
            raise ValueError(f"There is no probe {unknown.pop()!r}; choose of {', '.join(PROBES)}.")
        numbers("k")
        if numbers("labels_per_class") and ":" in FLAGS.data:
            raise ValueError(
                "--labels_per_class is for data sets in memory; use finetune.py --num_labels."
            )
        if FLAGS.json:
            Path(FLAGS.json).parent.mkdir(parents=True, exist_ok=True)
        given = settle_model()
        say(given.notes)
        check_weights("--model", FLAGS.model, FLAGS.from_scratch)
        train, test = open_both()
        keras.utils.set_random_seed(0)
        backbone = nepa_keras.NepaBackbone.from_preset(
            FLAGS.model,
            load_weights=not FLAGS.from_scratch,
            ema=given.ema,
            image_size=FLAGS.image_size,
        )
        evaluation.FeatureSets(
            backbone, False, asked_blocks(backbone.num_layers), tuple(FLAGS.pools)
        )
        batches = [batches_of(source, FLAGS.model, backbone) for source in (train, test)]
    print(
        f"{keras.backend.backend()}: {FLAGS.model}{' from scratch' if FLAGS.from_scratch else ''}, "
        f"{len(train):,} images of {FLAGS.data} to learn from, {len(test):,} to test with",
        flush=True,
    )
    *size, channels = backbone.image_shape
    say_sight("--data", FLAGS.data, train, channels, tuple(size), SEES_MORE)
    figures = Figures()
    with exit_with_status():
        probe_all(backbone, *batches, figures)
    few_labels(backbone, figures)


if __name__ == "__main__":
    run(main)
