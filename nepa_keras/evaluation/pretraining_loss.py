"""Loss of a pretrainer on images that it was not trained on."""

import contextlib
from collections import Counter

from nepa_keras.data import OrderedBatches
from nepa_keras.nepa import NepaPretrainer


def pretraining_loss(model: NepaPretrainer, batches: OrderedBatches) -> dict[str, float]:
    """Mean loss and spreads of a pretrainer over images, each of which counts once.

    The losses of two models compare only where they predict the same embeddings, since each model's own
    patch embedding makes its targets.

    Args:
        model: a compiled pretrainer.
        batches: images in order; those that cannot be read are left out.

    Returns:
        "loss", for NEPA in [-1, 1] with -1 the best; "prediction_spread" and "target_spread" in [0, 1], means
        over the batches, as each is of a batch.

    Raises:
        ValueError: no image can be read.
        BadImagesError: as `OrderedBatches`.
    """
    totals: Counter[str] = Counter()
    count = 0
    with contextlib.closing(iter(batches)) as stream:
        for images, _ in stream:
            if not len(images):
                continue
            model.reset_metrics()
            logs = model.test_on_batch(images, return_dict=True)
            totals.update({name: len(images) * float(value) for name, value in logs.items()})
            count += len(images)
    if not count:
        raise ValueError("None of the images can be read.")
    return {name: total / count for name, total in totals.items()}
