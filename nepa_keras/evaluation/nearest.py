"""The rows of features that are nearest to one, by cosine similarity.

N rows, D width.
"""

import numpy as np

from nepa_keras.vectors import unit

_CHUNK = 65_536  # rows that are normed at a time


def nearest_features(
    features: np.ndarray, query: np.ndarray, count: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest rows, the nearest first; of equally near ones the first.

    Args:
        features: (N, D).
        query: (D,).
        count: of rows; N at most are found.

    Returns:
        Row numbers and cosine similarities in [-1, 1], two of (min(count, N),).

    Raises:
        ValueError: shapes that do not fit, a count below 1, or values that are not finite.

    Example:
        >>> found = read_features("features.npz")
        >>> rows, cosines = nearest_features(found.features, found.features[0])
        >>> found.names[rows]
    """
    features, query = np.asarray(features), np.asarray(query, "float32")
    if features.ndim != 2 or query.shape != features.shape[1:] or not len(features):
        raise ValueError(
            f"features must be (N, D) with N > 0 and the query (D,), got {features.shape} and "
            f"{query.shape}; features of patches are averaged first."
        )
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}.")
    if not np.isfinite(query).all():
        raise ValueError("The query has non-finite values.")
    wanted, starts = unit(query), range(0, len(features), _CHUNK)
    chunks = (np.asarray(features[start : start + _CHUNK], "float32") for start in starts)
    cosines = np.concatenate([unit(chunk) @ wanted for chunk in chunks])
    if not np.isfinite(cosines).all():
        raise ValueError(f"Row {int((~np.isfinite(cosines)).argmax())} has non-finite values.")
    rows = np.argsort(-cosines, kind="stable")[:count]
    return rows, np.clip(cosines[rows], -1.0, 1.0)
