"""Class probabilities from logits, in NumPy."""

import numpy as np


def probabilities(logits: np.ndarray, multi_label: bool = False) -> np.ndarray:
    """Convert logits to probabilities by softmax, or by sigmoid for independent classes; float64 (..., C).

    Args:
        logits: (..., C).
        multi_label: an image may have several classes.
    """
    logits = np.asarray(logits, "float64")
    if multi_label:
        return 0.5 * (1 + np.tanh(logits / 2))  # sigmoid, without overflow
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
