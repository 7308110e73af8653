"""Weighted k-nearest-neighbour classification of frozen features, in NumPy."""

import numpy as np

from nepa_keras.vectors import unit

_CHUNK_BYTES = 64 * 2**20  # of one float32 matrix (test rows, training rows); a few exist at a time


def knn_accuracy(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Fraction of test images whose class wins the vote of the k nearest training images.

    A neighbour votes with weight exp(cosine / temperature), as in Wu et al. 2018 (arXiv 1805.01978). Of
    equally near images the first are taken, of classes with equal votes the smallest. Memory use does not
    grow with the number of test images.

    Args:
        train_x, train_y: features (B, D) and class numbers (B,) of the training images.
        test_x, test_y: features (B, D) and class numbers (B,) of the test images.
        k: number of neighbours, at most the number of training images.
        temperature: sharpness of the vote; a small one lets the nearest decide.

    Raises:
        ValueError: shapes do not fit, features are not finite, or k is out of range.

    Example:
        >>> features = evaluation.extract_features(backbone, images)
        >>> evaluation.knn_accuracy(features, labels, features, labels, k=1)
        1.0
    """
    check_features("train", train_x, train_y)
    check_features("test", test_x, test_y)
    if train_x.shape[1] != test_x.shape[1]:
        raise ValueError(
            f"train_x has width {train_x.shape[1]} and test_x {test_x.shape[1]}; extract both with "
            "the same backbone."
        )
    if not 1 <= k <= len(train_x):
        raise ValueError(f"k={k} must be between 1 and the {len(train_x)} training images.")
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}.")
    keys = unit(np.asarray(train_x, "float32")).T  # (D, B)
    classes = int(train_y.max()) + 1
    one_hot = np.eye(classes, dtype="float32")[train_y]  # (B, C)
    rows = max(1, _CHUNK_BYTES // (4 * len(train_x)))
    correct = 0
    for start in range(0, len(test_x), rows):
        cosines = unit(np.asarray(test_x[start : start + rows], "float32")) @ keys  # (rows, B)
        nearest = _top_k_mask(cosines, k)
        # Subtract the largest, so that exp cannot overflow.
        cosines -= cosines.max(axis=1, keepdims=True)
        votes = (np.exp(cosines / temperature) * nearest) @ one_hot  # (rows, C)
        correct += int((votes.argmax(axis=1) == test_y[start : start + rows]).sum())
    return correct / len(test_x)


def _top_k_mask(values: np.ndarray, k: int) -> np.ndarray:
    """Mask of the k largest values of each row; of equal ones the first."""
    threshold = np.partition(values, -k, axis=1)[:, -k, None]
    above = values > threshold
    equal = values == threshold
    missing = k - above.sum(axis=1, keepdims=True)
    return above | (equal & (np.cumsum(equal, axis=1, dtype="int32") <= missing))


def check_features(name: str, x: np.ndarray, y: np.ndarray) -> None:
    """Check that x is (B, D) and finite, and y (B,) with integers from 0 on, B > 0.

    Raises:
        ValueError: it is not so.
    """
    if x.ndim != 2 or y.shape != x.shape[:1] or len(x) == 0:
        raise ValueError(
            f"{name}_x must be (B, D) and {name}_y (B,) with B > 0, got {x.shape} and {y.shape}."
        )
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
        raise ValueError(f"{name}_y must hold integers from 0 on; number the classes 0, 1, 2, ...")
    if not np.isfinite(x).all():
        raise ValueError(f"{name}_x contains NaN or infinity; check the weights of the backbone.")
