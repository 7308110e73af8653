"""What pretraining is worth: the table at its end, and the monitor on the way."""

from absl import flags
from number_flags import RATE, define_number

from nepa_keras import data, evaluation

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # what is defined here belongs to the script that asks for it


def define_flags() -> None:
    """Flags of --evaluate and of the monitor."""
    flags.DEFINE_boolean(
        "evaluate", None, "Measure what pretraining was worth; default where the data has labels."
    )
    flags.DEFINE_integer("num_labels", 100, "Labels that --evaluate fine-tunes on.", lower_bound=1)
    flags.DEFINE_integer(
        "finetune_steps", 100, "Steps of each fine-tuning of --evaluate.", lower_bound=1
    )
    define_number(
        "finetune_learning_rate",
        2e-3,
        "Peak rate of the fine-tuning of --evaluate, not scaled.",
        RATE,
    )
    flags.DEFINE_integer(
        "monitor_images",
        0,
        "Look at the features of so many test images as the run goes: rank, spread, drift, k-NN, "
        "linear probe.",
        lower_bound=0,
    )


def build_monitor(source) -> evaluation.FeatureMonitor | None:
    """Of --monitor_images of the test images of a data set in memory."""
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
        print(f"--monitor_images={FLAGS.monitor_images} watches no linear probe: {error}")
        return evaluation.FeatureMonitor(images, labels)


def measure(model, source, before: dict[str, float]) -> list[tuple[str, ...]]:
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
