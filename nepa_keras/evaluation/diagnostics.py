"""Collapse diagnostics of embeddings: how many directions they use, and how widely they spread."""

import numpy as np

from nepa_keras.vectors import unit

# Thresholds of the warnings. A healthy run stays far from each: complete collapse means 1 direction, cosine
# 1 and spread 0.
FEW_DIRECTIONS = 2.0
ONE_DIRECTION = 0.999
NO_SPREAD = 0.02
FAST_DRIFT = 0.5


def effective_rank(x: np.ndarray) -> float:
    """Effective number of directions: exp of the entropy of the singular values (RankMe, arXiv 2210.02885).

    Args:
        x: embeddings (B, D).

    Returns:
        A number from 1 (all embeddings are on one line) to min(B, D).
    """
    values = np.linalg.svd(np.asarray(x, "float64"), compute_uv=False)
    total = values.sum()
    if total == 0:
        return 1.0
    shares = values[values > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def diagnostics(x: np.ndarray, before: np.ndarray | None = None) -> dict[str, float]:
    """Collapse diagnostics of embeddings (B, D) of B different images or patches.

    Args:
        x: (B, D).
        before: earlier embeddings of the same images or patches, (B, D).

    Returns:
        effective_rank: see `effective_rank`.
        mean_cosine: mean cosine between an embedding and their mean; 1 if all point in one direction.
        spread: standard deviation of the L2-normalised embeddings, averaged over dimensions, times sqrt(D);
            about 1 if they point in all directions, 0 if they are equal.
        drift: mean of 1 - cosine between an embedding and its earlier value; only with `before`.

    Raises:
        ValueError: there are fewer than two embeddings, or they are not finite.
    """
    x = np.asarray(x, "float64")
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"Diagnostics need embeddings (B, D) with B >= 2, got {x.shape}.")
    if not np.isfinite(x).all():
        raise ValueError("The embeddings contain NaN or infinity; check the weights of the model.")
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
    """Warnings about the results of `diagnostics`, as text by name; empty if all is well."""
    words = {}
    if found["effective_rank"] < FEW_DIRECTIONS:
        words["effective_rank"] = (
            f"embeddings use {found['effective_rank']:.1f} directions: they lie nearly on one line. "
            "Check stop_gradient and shift, then lower the learning rate"
        )
    if found["mean_cosine"] > ONE_DIRECTION:
        words["mean_cosine"] = (
            f"embeddings point the same way (cosine {found['mean_cosine']:.4f} with their mean) for every "
            "image: this is collapse if the loss is near -1"
        )
    if found["spread"] < NO_SPREAD:
        words["spread"] = (
            f"embeddings of different images are nearly equal (spread {found['spread']:.3f} of 1)"
        )
    if found.get("drift", 0.0) > FAST_DRIFT:
        words["drift"] = (
            f"targets turned to a cosine of {1 - found['drift']:.2f} with those of the last check: they "
            "change faster than the model can learn to predict them; lower the learning rate"
        )
    return words
