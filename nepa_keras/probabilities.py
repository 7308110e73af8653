"""Probabilities of classes from logits, in NumPy."""

import numpy as np


def probabilities(logits: np.ndarray, multi_label: bool = False) -> np.ndarray:
    """float64 (..., K): that an image is of each class (softmax), or shows it (sigmoid of each by itself).

    Args:
        logits: (..., K).
        multi_label: an image may show several classes.
    """
    logits = np.asarray(logits, "float64")
    if multi_label:
        return 0.5 * (1 + np.tanh(logits / 2))  # sigmoid, without overflow
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
