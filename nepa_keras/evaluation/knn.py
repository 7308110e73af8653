"""Weighted nearest neighbours on frozen features, in NumPy.

N training rows, M test rows, D width, K classes.
"""

import numpy as np

from nepa_keras.vectors import unit

_CHUNK_BYTES = 64 * 2**20  # of one (rows, N) float32 matrix; a few of them exist at a time


def knn_accuracy(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of test rows whose class wins the vote of the k nearest training rows.

    A neighbour votes with exp(cosine / temperature), as Wu et al. 2018 (arXiv 1805.01978). Of
    equally near rows the first come in, and of equally voted classes the smallest wins. Memory is
    bounded whatever M is.

    Args:
        train_x, train_y: features (N, D) and labels (N,), integers from 0.
        test_x, test_y: features (M, D) and labels (M,).
        k: neighbours, at most N.
        temperature: of the vote; small means that the nearest decides.

    Raises:
        ValueError: shapes that do not fit, non-finite features, or k out of range.
    """
    check_features("train", train_x, train_y)
    check_features("test", test_x, test_y)
    if train_x.shape[1] != test_x.shape[1]:
        raise ValueError(
            f"train_x is {train_x.shape[1]} wide and test_x {test_x.shape[1]}; extract both from "
            "the same backbone."
        )
    if not 1 <= k <= len(train_x):
        raise ValueError(f"k={k} must be between 1 and the {len(train_x)} training rows.")
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}.")
    keys = unit(np.asarray(train_x, "float32")).T  # (D, N)
    classes = int(train_y.max()) + 1
    one_hot = np.eye(classes, dtype="float32")[train_y]  # (N, K)
    rows = max(1, _CHUNK_BYTES // (4 * len(train_x)))
    correct = 0
    for start in range(0, len(test_x), rows):
        cosines = unit(np.asarray(test_x[start : start + rows], "float32")) @ keys  # (rows, N)
        nearest = _top_k_mask(cosines, k)
        # Relative to the nearest, so that exp cannot overflow.
        cosines -= cosines.max(axis=1, keepdims=True)
        votes = (np.exp(cosines / temperature) * nearest) @ one_hot  # (rows, K)
        correct += int((votes.argmax(axis=1) == test_y[start : start + rows]).sum())
    return correct / len(test_x)


def _top_k_mask(values: np.ndarray, k: int) -> np.ndarray:
    """True at the k largest of each row (rows, N); of equal ones the first."""
    threshold = np.partition(values, -k, axis=1)[:, -k, None]
    above = values > threshold
    equal = values == threshold
    missing = k - above.sum(axis=1, keepdims=True)
    return above | (equal & (np.cumsum(equal, axis=1, dtype="int32") <= missing))


def check_features(name: str, x: np.ndarray, y: np.ndarray) -> None:
    """Raises ValueError unless x is a finite (N, D) and y integers (N,) from 0, N > 0."""
    if x.ndim != 2 or y.shape != x.shape[:1] or len(x) == 0:
        raise ValueError(
            f"{name}_x must be (N, D) and {name}_y (N,) with N > 0, got {x.shape} and {y.shape}."
        )
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
        raise ValueError(f"{name}_y must hold integers from 0 on; number the classes 0, 1, 2 ...")
    if not np.isfinite(x).all():
        raise ValueError(f"{name}_x has non-finite values; check the weights of the backbone.")
