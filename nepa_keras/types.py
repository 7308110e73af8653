"""Type aliases for arguments, and the letters of shapes.

A letter has one meaning in all docstrings and comments:

    B   images in a batch, or in an array of images
    T   patches of an image
    N   tokens: CLS and the patches, 1 + T
    D   width of the model (`hidden_dim`)
    H   attention heads
    K   width of a head
    L   blocks
    C   classes, or channels of a map

`height` and `width` count pixels; `h` and `w` count cells of a grid.
"""

from typing import Any, TypeAlias

Tensor: TypeAlias = Any
"""A tensor of the active backend, or a `keras.KerasTensor` in a functional model.

The alias is `Any`, as the backend is chosen at import. Most functions also take NumPy arrays.
"""

Shape: TypeAlias = tuple[Any, ...]
"""Sizes of an array: integers, or None or a tensor for a size that a graph knows only at run time."""

Logs: TypeAlias = Any
"""Results of an epoch by name, as callbacks get them: a dictionary (Keras' default is None)."""
