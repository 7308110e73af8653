"""Which block's features to take: those that are best on images held out of the ones to learn from.

NEPA's last blocks are busy with the next patch, and the middle of the network is worth more to a probe. The
choice looks at training images only, so that figures on test images stay what they say.
N images, D width, L blocks.
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
_MOST = 20_000  # images that choose; more cost time and tell little more
_PENALTY = 1e-3  # on weights for features of variance 1, in units of the number of images


def block_name(block: int) -> str:
    """A block for people: "block 3", or "norm" for what leaves the final norm."""
    return "norm" if block == AFTER_NORM else f"block {block}"


class BlockChoice(NamedTuple):
    """A block, and why it.

    Attributes:
        block: its number from 0, or `AFTER_NORM`.
        accuracies: on the images held out, by block, in [0, 1].
        probe: whose they are, "knn" or "linear".
        learned, held_out: numbers of images.
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
        """Everything, as JSON takes it."""
        scores = {block_name(block): score for block, score in self.accuracies.items()}
        return {**self._asdict(), "block": block_name(self.block), "accuracies": scores}


def choose_features(
    features: Mapping[int, np.ndarray],
    labels: np.ndarray,
    probe: str = "linear",
    share: float = 0.2,
    seed: int = 0,
) -> BlockChoice:
    """The block whose features recognise images held out best; of equal ones the first.

    Args:
        features: of the training images by block, each (N, D); of many images 20 000 are looked at.
        labels: (N,), negative for none.
        probe: "linear" for least squares on standardised features, which orders blocks as a logistic
            regression does, in a hundredth of its time; "knn" for 20 neighbours.
        share: of each class that is held out.
        seed: of the choice of images.

    Raises:
        ValueError: unknown probe, no features, or too few images of a class.
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
    """Share of test rows whose class a regularised linear regression of the classes puts first."""
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
    """The block whose pooled features recognise training images held out best.

    Args:
        backbone: a `NepaBackbone`.
        images: training images, (N, height, width, channels), uint8 or floats already normalised; or batches
            of a source.
        labels: (N,) of the images, or of the source.
        causal: whether token t sees only tokens 0..t; None for the backbone's own choice.
        pool: of `FeatureSets`.
        probe, share, seed: of `choose_features`.

    Example:
        >>> choice = choose_block(backbone, images, labels)
        >>> features = extract_features(backbone, images, block=choice.block)
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
