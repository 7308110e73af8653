"""Length of a run and of its warm-up in updates, from flags in epochs, updates or fractions."""

from absl import flags

FLAGS = flags.FLAGS


def _updates_of(epochs: float, batches_per_epoch: int) -> int:
    """Whole updates in a number of epochs; an update takes --accumulation_steps batches."""
    return int(epochs * batches_per_epoch) // FLAGS.accumulation_steps


def updates_and_warmup(
    batches_per_epoch: int,
    *,
    default_steps: int | None = None,
    default_epochs: float | None = None,
    default_ratio: float,
) -> tuple[int, dict[str, float]]:
    """Updates by --steps or --epochs, and arguments of a schedule by --warmup_epochs or --warmup_ratio.

    Args:
        batches_per_epoch: batches in a pass over the training images.
        default_steps, default_epochs: length of the run if neither --steps nor --epochs is given.
        default_ratio: warm-up ratio if neither --warmup_epochs nor --warmup_ratio is given.

    Returns:
        The number of updates, and {"warmup_steps": n} or {"warmup_ratio": r}.

    Raises:
        ValueError: two flags contradict each other, the run has no update, or the warm-up is longer than the
            run.
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
                f"--steps={FLAGS.steps} and --epochs={FLAGS.epochs} both set the length of the training; "
                "give one of them (--steps=0 or --epochs=0 switches off that of a flag file or recipe)."
            )
        return FLAGS.steps
    epochs = default_epochs if FLAGS.epochs is None else FLAGS.epochs
    if epochs is None:
        return default_steps
    updates = _updates_of(epochs, batches_per_epoch)
    if updates < 1:
        raise ValueError(
            f"--epochs={epochs} is less than one update with this data; raise it, or lower --batch_size."
        )
    return updates


def _warmup(batches_per_epoch: int, updates: int, default_ratio: float) -> dict[str, float]:
    ratio, epochs = FLAGS.warmup_ratio, FLAGS.warmup_epochs
    if not epochs:  # 0 switches off the value of a flag file, and without a ratio the warm-up
        if ratio is None and epochs is None:
            ratio = default_ratio
        return {"warmup_ratio": ratio or 0.0}
    if ratio:
        raise ValueError(
            f"--warmup_ratio={ratio} and --warmup_epochs={epochs} both set the length of the warm-up; give "
            "one of them (--warmup_ratio=0 or --warmup_epochs=0 switches off that of a flag file or recipe)."
        )
    steps = _updates_of(epochs, batches_per_epoch)
    if steps > updates:
        raise ValueError(
            f"--warmup_epochs={epochs} is {steps} updates with this data, and the run has only {updates}; "
            "lower it, or give --warmup_epochs=0 and a --warmup_ratio."
        )
    return {"warmup_steps": steps}
