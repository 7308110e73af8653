"""How long a run and its warm-up are, from flags in epochs, updates or shares to updates."""

from absl import flags

FLAGS = flags.FLAGS


def _updates_of(epochs: float, batches_per_epoch: int) -> int:
    """Whole updates in so many epochs; --accumulation_steps batches make one."""
    return int(epochs * batches_per_epoch) // FLAGS.accumulation_steps


def updates_and_warmup(
    batches_per_epoch: int,
    *,
    default_steps: int | None = None,
    default_epochs: float | None = None,
    default_ratio: float,
) -> tuple[int, dict[str, float]]:
    """Updates of --steps or --epochs; the warm-up of --warmup_epochs or --warmup_ratio, for a schedule.

    Args:
        batches_per_epoch: of the training images.
        default_steps, default_epochs: of a run without either flag.
        default_ratio: of a warm-up without either flag.

    Raises:
        ValueError: both of two flags are given, less than one update, or a warm-up longer than the run.
    """
    updates = _updates(batches_per_epoch, default_steps, default_epochs)
    return updates, _warmup(batches_per_epoch, updates, default_ratio)


def _updates(batches_per_epoch: int, default_steps: int | None, default_epochs: float | None):
    if FLAGS.steps == 0 and not FLAGS.epochs:
        raise ValueError(
            "--steps=0 leaves the length to --epochs, which is not given; give one of them."
        )
    if FLAGS.steps:
        if FLAGS.epochs:
            raise ValueError(
                f"--steps={FLAGS.steps} and --epochs={FLAGS.epochs} both say how long to train; give one of "
                "them (--steps=0 or --epochs=0 switches off that of a flag file or recipe)."
            )
        return FLAGS.steps
    epochs = default_epochs if FLAGS.epochs is None else FLAGS.epochs
    if epochs is None:
        return default_steps
    updates = _updates_of(epochs, batches_per_epoch)
    if updates < 1:
        raise ValueError(f"--epochs={epochs} of this data is less than one update; raise it.")
    return updates


def _warmup(batches_per_epoch: int, updates: int, default_ratio: float) -> dict[str, float]:
    ratio, epochs = FLAGS.warmup_ratio, FLAGS.warmup_epochs
    if not epochs:  # 0 switches off that of a flag file, and alone means no warm-up
        if ratio is None and epochs is None:
            ratio = default_ratio
        return {"warmup_ratio": ratio or 0.0}
    if ratio:
        raise ValueError(
            f"--warmup_ratio={ratio} and --warmup_epochs={epochs} both say how long the warm-up is; give one "
            "of them (--warmup_ratio=0 or --warmup_epochs=0 switches off that of a flag file or recipe)."
        )
    steps = _updates_of(epochs, batches_per_epoch)
    if steps > updates:
        raise ValueError(
            f"--warmup_epochs={epochs} is {steps} updates of this data, and the run has {updates}; lower it, "
            "or give --warmup_epochs=0 and a --warmup_ratio."
        )
    return {"warmup_steps": steps}
