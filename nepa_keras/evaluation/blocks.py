"""Choice of the block whose features serve a probe best, by accuracy on held-out training images.

NEPA's last blocks specialise in predicting the next patch; blocks in the middle of the network often give
better features. The choice uses training images only, so test accuracies stay unbiased.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from nepa_keras.backbone import NepaBackbone
from nepa_keras.data import OrderedBatches, held_out
from nepa_keras.evaluation.classification import predict_batches
from nepa_keras.evaluation.feature_sets import FeatureSets
from nepa_keras.evaluation.features import AFTER_NORM
from nepa_keras.evaluation.knn import check_features, knn_accuracy

_NEIGHBOURS = 20
_MOST = 20_000  # images used for the choice; more take longer and hardly change it
_PENALTY = 1e-3  # L2 penalty per image, for features of variance 1


def block_name(block: int) -> str:
    """Display name of a block: "block 3", or "norm" for the output of the final norm."""
    return "norm" if block == AFTER_NORM else f"block {block}"


class BlockChoice(NamedTuple):
    """A chosen block and the accuracies that decided.

    Attributes:
        block: number of the block, from 0, or `AFTER_NORM`.
        accuracies: accuracy on the held-out images by block, in [0, 1].
        probe: probe that measured them, "knn" or "linear".
        learned, held_out: number of training images of the probe, and of held-out images.

    Example:
        >>> choice = evaluation.BlockChoice(5, {5: 0.75, -1: 0.5}, "knn", learned=80, held_out=20)
        >>> print(choice)
        block 5, chosen by k-NN of 80 training images on 20 others held out (block 5 75.0%, norm 50.0%)
    """

    block: int
    accuracies: dict[int, float]
    probe: str
    learned: int
    held_out: int

    def __str__(self) -> str:
        probe = {"knn": "k-NN", "linear": "least squares"}[self.probe]
        scores = (f"{block_name(b)} {100 * a:.1f}%" for b, a in self.accuracies.items())
        return (
            f"{block_name(self.block)}, chosen by {probe} of {self.learned:,} training images on "
            f"{self.held_out:,} others held out ({', '.join(scores)})"
        )

    def figures(self) -> dict:
        """Content as a dictionary that JSON can hold."""
        scores = {block_name(block): score for block, score in self.accuracies.items()}
        return {**self._asdict(), "block": block_name(self.block), "accuracies": scores}


def choose_features(
    features: Mapping[int, np.ndarray],
    labels: np.ndarray,
    probe: str = "linear",
    share: float = 0.2,
    seed: int = 0,
) -> BlockChoice:
    """Block whose features classify held-out images best; of equal accuracies the first.

    Args:
        features: features of the training images by block, each (B, D). At most 20 000 images are used.
        labels: (B,) class numbers, negative for none.
        probe: "linear" for least squares on standardised features, which ranks blocks like a logistic
            regression in a hundredth of the time; "knn" for 20 nearest neighbours.
        share: fraction of each class that is held out.
        seed: seed of the choice of held-out images.

    Raises:
        ValueError: the probe is unknown, there are no features, or a class has too few images.
    """
    if probe not in ("knn", "linear"):
        raise ValueError(f"probe must be knn or linear, got {probe!r}.")
    if not features:
        raise ValueError("There are no features to choose from.")
    rows = np.arange(len(labels))
    if len(rows) > _MOST:
        _, rows = held_out(labels, _MOST / len(rows), seed)
    kept, others = (rows[part] for part in held_out(labels[rows], share, seed))
    accuracies = {}
    for block, x in features.items():
        split = x[kept], labels[kept], x[others], labels[others]
        if probe == "knn":
            accuracies[block] = knn_accuracy(*split, k=min(_NEIGHBOURS, len(kept)))
        else:
            accuracies[block] = _least_squares_accuracy(*split)
    best = max(accuracies, key=lambda block: accuracies[block])
    return BlockChoice(best, accuracies, probe, len(kept), len(others))


def _least_squares_accuracy(train_x, train_y, test_x, test_y) -> float:
    """Test accuracy of ridge regression on one-hot classes; the largest output is the predicted class."""
    check_features("train", train_x, train_y)
    mean, scale = train_x.mean(axis=0), np.maximum(train_x.std(axis=0), 1e-12)
    x, tested = (((part - mean) / scale).astype("float64") for part in (train_x, test_x))
    classes = np.eye(int(train_y.max()) + 1)[train_y]
    level = classes.mean(axis=0)
    products = x.T @ x + _PENALTY * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(products, x.T @ (classes - level))
    return float(((tested @ weights + level).argmax(axis=1) == test_y).mean())


def choose_block(
    backbone: NepaBackbone,
    images: np.ndarray | OrderedBatches,
    labels: np.ndarray,
    probe: str = "linear",
    causal: bool | None = None,
    pool: str = "mean",
    share: float = 0.2,
    seed: int = 0,
) -> BlockChoice:
    """Block whose pooled features classify held-out training images best.

    Args:
        backbone: a `NepaBackbone`.
        images: training images, (B, height, width, channels), uint8 or floats already normalised; or batches
            of a source.
        labels: (B,) class numbers of the images, or of all images of the source.
        causal: whether token t attends only to tokens 0..t; None for the backbone's own setting.
        pool: see `FeatureSets`.
        probe, share, seed: see `choose_features`.

    Example:
        >>> choice = evaluation.choose_block(
        ...     backbone, arrays.train_images, arrays.train_labels, share=0.5
        ... )
        >>> features = evaluation.extract_features(backbone, images, block=choice.block)
    """
    causal = backbone.use_causal_mask if causal is None else causal
    sets = FeatureSets(backbone, causal, pools=(pool,))
    if isinstance(images, OrderedBatches):
        found, indices = predict_batches(sets, images)
        labels = labels[indices]
        features = {block: found[:, i] for i, (block, _) in enumerate(sets.names)}
    else:
        features = {block: x for (block, _), x in sets.extract(images).items()}
    return choose_features(features, labels, probe, share, seed)
