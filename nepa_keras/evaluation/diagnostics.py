"""Whether embeddings have collapsed: how many directions they use, and how far they spread.

N rows, D width.
"""

import numpy as np

from nepa_keras.vectors import unit

# From here on a number is put into words. A run that learns stays far away from each: collapse goes all the
# way to 1 direction, cosine 1 and spread 0.
FEW_DIRECTIONS = 2.0
ONE_DIRECTION = 0.999
NO_SPREAD = 0.02
FAST_DRIFT = 0.5


def effective_rank(x: np.ndarray) -> float:
    """Number of directions in use: exp of the entropy of the singular values (RankMe, arXiv 2210.02885).

    Args:
        x: (N, D).

    Returns:
        From 1, all rows on one line, to min(N, D).
    """
    values = np.linalg.svd(np.asarray(x, "float64"), compute_uv=False)
    total = values.sum()
    if total == 0:
        return 1.0
    shares = values[values > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def diagnostics(x: np.ndarray, before: np.ndarray | None = None) -> dict[str, float]:
    """Numbers about embeddings (N, D) of N different images or patches.

    Args:
        before: the same rows at an earlier time.

    Returns:
        effective_rank: see there.
        mean_cosine: mean cosine of a row and the mean row; 1 if all point in one direction.
        spread: mean over the dimensions of the standard deviation of the normalised rows, times sqrt(D);
            about 1 for rows in all directions, 0 for equal ones.
        drift: mean of 1 - cosine of a row and the same row before; only with `before`.

    Raises:
        ValueError: fewer than two rows, or values that are not finite.
    """
    x = np.asarray(x, "float64")
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"Diagnostics need (N, D) with N >= 2, got {x.shape}.")
    if not np.isfinite(x).all():
        raise ValueError("The embeddings have non-finite values; check the weights of the model.")
    units = unit(x)
    found = {
        "effective_rank": effective_rank(x),
        "mean_cosine": float((units @ unit(x.mean(axis=0, keepdims=True)).T).mean()),
        "spread": float(units.std(axis=0).mean() * np.sqrt(x.shape[1])),
    }
    if before is not None:
        found["drift"] = float(1 - (units * unit(np.asarray(before, "float64"))).sum(axis=1).mean())
    return found


def collapse_warnings(found: dict[str, float]) -> dict[str, str]:
    """What is wrong with `diagnostics`, in words, by name; empty if nothing is."""
    words = {}
    if found["effective_rank"] < FEW_DIRECTIONS:
        words["effective_rank"] = (
            f"embeddings use {found['effective_rank']:.1f} directions: they are all but on one line. "
            "Check stop_gradient and shift, then lower the learning rate"
        )
    if found["mean_cosine"] > ONE_DIRECTION:
        words["mean_cosine"] = (
            f"embeddings point the same way (cosine {found['mean_cosine']:.4f} with their mean), whatever "
            "the image: a collapse if the loss is near -1"
        )
    if found["spread"] < NO_SPREAD:
        words["spread"] = (
            f"embeddings of different images are nearly equal (spread {found['spread']:.3f} of 1)"
        )
    if found.get("drift", 0.0) > FAST_DRIFT:
        words["drift"] = (
            f"targets turned to a cosine of {1 - found['drift']:.2f} with those of the last look: what is "
            "predicted moves faster than it can be learned; lower the learning rate"
        )
    return words
