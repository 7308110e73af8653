r"""Evaluate the frozen features of a NEPA backbone by k-NN, linear and attentive probes.

    KERAS_BACKEND=jax python experiments/probe.py --model=runs/mine/ema
    KERAS_BACKEND=jax python experiments/probe.py --model=runs/mine/ema --probes=knn,linear,sgd,attentive \
        --blocks=norm --labels_per_class=1,10
    KERAS_BACKEND=jax python experiments/probe.py --model=hf://SixAILab/nepa-base-patch14-224 \
        --data=imagenet:/data --blocks=norm --probes=knn
    KERAS_BACKEND=jax python experiments/probe.py --model=runs/mine/ema --blocks=auto

--model is required; the data are by default the 10 000 labelled images that ship with the library and their
2 000 test images. The script prints one table of test accuracies in per cent: a row for each kind of features
and a column for each probe.

Features are the mean of the patches, the last patch and the CLS token (not with causal attention, where CLS
attends to no patch) of each block, with causal and with bidirectional attention. With --blocks=auto only the
best block for each pooling and attention is tested; it is chosen on held-out training images, never on test
images.
"""

import json
from pathlib import Path

import before_keras  # noqa: F401
import keras
import numpy as np
from absl import flags
from blocks import AUTO, given_blocks
from command_line import (
    check_file_to_write,
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

flags.DEFINE_string("model", None, f"Model whose backbone is probed: {MODEL}", required=True)
define_weights_flag()
flags.DEFINE_boolean(
    "from_scratch", False, "Probe random initial weights of the architecture of --model instead."
)
flags.DEFINE_string(
    "data",
    "embedded",
    "Labelled images to train the probes on; the same kinds as for --data of pretrain.py.",
)
flags.DEFINE_string(
    "test_data", None, "Labelled images to test the probes on; default the test split of --data."
)
define_cache_flags()
define_data_dir_flag()
define_label_flags()
define_value_range_flag()
define_image_size_flag()
define_classes_flag()
flags.DEFINE_list(
    "probes",
    ["knn", "linear"],
    f"Probes to train, separated by commas: {', '.join(PROBES)}.",
)
flags.DEFINE_list(
    "blocks",
    ["all"],
    "Blocks whose features are probed: numbers from 0, norm (the final norm after the last block), all, or "
    "auto, the best block on held-out training images by least squares (by k-NN with --probes=knn). The "
    "attentive probe uses norm, or the block that auto chooses for pool mean.",
)
flags.DEFINE_list(
    "pools",
    ["mean", "last", "cls"],
    "Pooling of the tokens: mean of the patches, last patch, CLS token; separated by commas.",
)
flags.DEFINE_enum(
    "attention",
    "both",
    ["both", "causal", "bidirectional"],
    "Attention with which the features are computed.",
)
flags.DEFINE_list(
    "k", ["1", "5", "20", "100"], "Numbers of neighbours of the k-NN probe, separated by commas."
)
define_number(
    "temperature",
    0.07,
    "Temperature of the k-NN probe: a neighbour's vote weighs exp(cosine similarity / temperature).",
    POSITIVE,
)
flags.DEFINE_list(
    "labels_per_class",
    [],
    "Numbers of labels per class, such as 1,5,10,100, to fine-tune on too, from these and random weights.",
)
flags.DEFINE_integer(
    "seeds", 3, "Random subsets of labels for each value of --labels_per_class.", lower_bound=1
)
flags.DEFINE_integer(
    "steps", 200, "Updates of each fine-tuning of --labels_per_class.", lower_bound=1
)
flags.DEFINE_integer(
    "batch_size", 128, "Images per batch when features are extracted.", lower_bound=1
)
flags.DEFINE_string("json", None, "JSON file for all results; rewritten after each of them.")


def numbers(name: str) -> tuple[int, ...]:
    """Values of a list flag of positive integers."""
    return list_of_numbers(name, int, POSITIVE)


def asked_blocks(num_layers: int | None = None) -> tuple[int, ...] | None:
    """Blocks of --blocks; None for all of them, from which auto chooses."""
    return None if FLAGS.blocks in (["all"], [AUTO]) else given_blocks(FLAGS.blocks, num_layers)


def open_both() -> tuple[data.ImageSource, data.ImageSource]:
    """Labelled training and test images, with the same numbering of classes."""
    text = FLAGS.test_data or FLAGS.data
    if not (FLAGS.test_data or test_split(FLAGS.data)):
        raise ValueError(f"--data={FLAGS.data} has no splits; give --test_data too.")
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
    """Test accuracies in [0, 1] of the probes on one kind of features."""
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
    """Table of results by name; prints each row and rewrites --json when a row is added."""

    def __init__(self):
        self.found: dict[str, dict] = {}
        self.columns: list[str] = []

    def add_row(self, name: str, accuracies: dict[str, float]) -> None:
        """Store and print the accuracies of the probes on one kind of features."""
        if not self.columns:
            names = {"knn": [f"{k}-NN" for k in numbers("k")]}
            self.columns = [c for probe in FLAGS.probes for c in names.get(probe, [probe])]
            say_result(f"{'features':36}" + "".join(f"{c:>11}" for c in self.columns))
        cells = (f"{100 * accuracies[c]:.2f}%" if c in accuracies else "" for c in self.columns)
        say_result(f"{name:36}" + "".join(f"{cell:>11}" for cell in cells).rstrip())
        self.keep(name, accuracies)

    def keep(self, name: str, figures: dict) -> None:
        """Store results without printing them."""
        self.found[name] = figures
        if FLAGS.json:
            Path(FLAGS.json).expanduser().write_text(json.dumps(self.found, indent=1))


def features_of(extractor, batches) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of all readable images."""
    features, indices = evaluation.predict_batches(extractor, batches)
    return features, batches.source.labels[indices]


def choose(sets, train_x, train_y, mode: str) -> dict[str, evaluation.BlockChoice]:
    """Choose the best block for each pooling on held-out training images, and print it."""
    probe, choices = "knn" if FLAGS.probes == ["knn"] else "linear", {}
    for pool in dict.fromkeys(pool for _, pool in sets.names):
        features = {b: train_x[:, i] for i, (b, p) in enumerate(sets.names) if p == pool}
        choices[pool] = evaluation.choose_features(features, train_y, probe)
        say_result(f"{mode}, {pool}: {choices[pool]}")
    return choices


def probe_all(backbone, train, test, figures: Figures) -> None:
    """Run the probes on all kinds of features, choosing blocks first if --blocks=auto."""
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
    """Fine-tune on few labels from these and from random weights; print a line for each number of labels."""
    for per_class in numbers("labels_per_class"):
        images = data.load(FLAGS.data, FLAGS.data_dir)
        count = per_class * len(images.class_names)
        found = evaluation.few_label_comparison(
            backbone,
            images,
            seeds=shown(range(FLAGS.seeds), FLAGS.seeds, f"{per_class} labels per class, seed"),
            num_labels=count,
            steps=FLAGS.steps,
            batch_size=min(50, count),
            learning_rate=2e-3,
            augment=False,
        )
        pretrained, scratch = (100 * np.array(found[key]) for key in ("pretrained", "scratch"))
        say_result(
            f"fine-tuning on {per_class} labels per class, {FLAGS.seeds} seeds, accuracy in %: pretrained "
            f"{mean_and_std(pretrained)}, from scratch {mean_and_std(scratch)}, gain "
            f"{mean_and_std(pretrained - scratch, sign='+')}"
        )
        figures.keep(f"fine-tuned, {per_class} a class", found)


def main():
    with user_errors():
        require_experiments_extra()
        if unknown := set(FLAGS.probes) - set(PROBES):
            raise ValueError(
                f"There is no probe {unknown.pop()!r}; --probes takes {', '.join(PROBES)}."
            )
        numbers("k")
        if numbers("labels_per_class") and ":" in FLAGS.data:
            raise ValueError(
                "--labels_per_class is for data sets in memory; use finetune.py --num_labels."
            )
        check_file_to_write("--json", FLAGS.json)
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
        f"{len(train):,} training images of {FLAGS.data}, {len(test):,} test images",
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
