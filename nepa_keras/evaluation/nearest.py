"""Nearest neighbours of one feature by cosine similarity."""

import numpy as np

from nepa_keras.vectors import unit

_CHUNK = 65_536  # rows that are normalised at a time


def nearest_features(
    features: np.ndarray, query: np.ndarray, count: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of features that are most similar to a query, most similar first; of equal ones the first.

    Args:
        features: (B, D).
        query: (D,).
        count: number of rows to find, at most B.

    Returns:
        Row numbers and cosine similarities in [-1, 1], both (min(count, B),).

    Raises:
        ValueError: shapes do not fit, count is below 1, or values are not finite.

    Example:
        >>> features = evaluation.extract_features(backbone, images)
        >>> rows, cosines = evaluation.nearest_features(features, features[3], count=5)
        >>> int(rows[0])
        3
    """
    features, query = np.asarray(features), np.asarray(query, "float32")
    if features.ndim != 2 or query.shape != features.shape[1:] or not len(features):
        raise ValueError(
            f"features must be (B, D) with B > 0 and the query (D,), got {features.shape} and "
            f"{query.shape}; average features of patches first."
        )
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}.")
    if not np.isfinite(query).all():
        raise ValueError("The query contains NaN or infinity.")
    wanted, starts = unit(query), range(0, len(features), _CHUNK)
    chunks = (np.asarray(features[start : start + _CHUNK], "float32") for start in starts)
    cosines = np.concatenate([unit(chunk) @ wanted for chunk in chunks])
    if not np.isfinite(cosines).all():
        raise ValueError(f"Row {int((~np.isfinite(cosines)).argmax())} contains NaN or infinity.")
    rows = np.argsort(-cosines, kind="stable")[:count]
    return rows, np.clip(cosines[rows], -1.0, 1.0)
