"""Operations on vectors in NumPy."""

import numpy as np


def unit(x: np.ndarray) -> np.ndarray:
    """Scale vectors to length 1 over the last axis; a zero vector stays zero."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
