"""Evaluation in pretrain.py: the gain from pretraining at the end, and a monitor of features on the way."""

from absl import flags
from blocks import AUTO, define_block_flag, given_blocks
from number_flags import RATE, define_number

from nepa_keras import data, evaluation

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # key flags of the script that calls, not of this module


def define_flags() -> None:
    """Define the flags of --evaluate and of the monitor."""
    define_block_flag(None, "--evaluate probes")
    flags.DEFINE_boolean(
        "evaluate",
        None,
        "Measure at the end what pretraining gains on labelled test images; default if --data is embedded, "
        "digits or fashion_mnist.",
    )
    flags.DEFINE_integer(
        "num_labels", 100, "Number of labels that --evaluate fine-tunes on.", lower_bound=1
    )
    flags.DEFINE_integer(
        "finetune_steps", 100, "Updates of each fine-tuning of --evaluate.", lower_bound=1
    )
    define_number(
        "finetune_learning_rate",
        2e-3,
        "Peak learning rate of the fine-tuning of --evaluate; not scaled by the batch size.",
        RATE,
    )
    flags.DEFINE_integer(
        "monitor_images",
        0,
        "Number of test images whose features are monitored during the run (effective rank, spread, drift, "
        "k-NN, linear probe); 0 for no monitor.",
        lower_bound=0,
    )


def build_monitor(source) -> evaluation.FeatureMonitor | None:
    """Monitor of the features of --monitor_images test images; None if the flag is 0."""
    if not FLAGS.monitor_images:
        return None
    if not isinstance(source, data.ImageArrays):
        raise ValueError(
            "--monitor_images is for data sets in memory: embedded, digits, fashion_mnist."
        )
    images, labels = (x[: FLAGS.monitor_images] for x in (source.test_images, source.test_labels))
    try:
        return evaluation.FeatureMonitor(images, labels, linear_probe=True)
    except ValueError as error:
        print(
            f"--monitor_images={FLAGS.monitor_images} is monitored without a linear probe: {error}"
        )
        return evaluation.FeatureMonitor(images, labels)


def check_block(backbone, evaluates: bool) -> None:
    """Check --blocks before training.

    Raises:
        ValueError: the model lacks the block, or nothing is evaluated.
    """
    if FLAGS.blocks is not None and not evaluates:
        raise ValueError(
            f"--blocks={FLAGS.blocks} is for --evaluate, which this run does not do; leave it out."
        )
    if FLAGS.blocks not in (None, AUTO):
        given_blocks([FLAGS.blocks], backbone.num_layers)


def frozen(backbone, source) -> tuple[dict[str, float], int]:
    """Accuracies on frozen features, and their block; with --blocks=auto, choose and print the block."""
    if FLAGS.blocks == AUTO:
        choice = evaluation.choose_block(backbone, source.train_images, source.train_labels)
        print(f"frozen features of {choice}", flush=True)
        block = choice.block
    else:
        (block,) = given_blocks([FLAGS.blocks or "norm"])
    return evaluation.frozen_accuracies(backbone, source, block=block), block


def measure(model, source, before: tuple[dict[str, float], int]) -> list[tuple[str, ...]]:
    """Rows of the table of gains from pretraining.

    Args:
        model: pretrainer that holds the averaged weights.
        source: images and labels.
        before: result of `frozen` with the initial weights.
    """
    after = frozen(model.backbone, source)
    few_label = evaluation.few_label_comparison(
        model.backbone,
        source,
        num_labels=FLAGS.num_labels,
        steps=FLAGS.finetune_steps,
        batch_size=min(50, FLAGS.num_labels),
        learning_rate=FLAGS.finetune_learning_rate,
        augment=False,
    )
    return evaluation.transfer_rows(
        few_label,
        before[0],
        after[0],
        num_labels=FLAGS.num_labels,
        steps=FLAGS.finetune_steps,
        num_test_images=len(source.test_images),
        blocks=(before[1], after[1]),
    )
