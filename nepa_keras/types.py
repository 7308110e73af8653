"""Types of arguments that Python's own do not describe, and the letters of shapes.

The letters have one meaning in all docstrings and comments:

    B   images in a batch, or in an array of images
    T   patches of an image
    N   tokens: CLS and the patches, 1 + T
    D   width of the model (`hidden_dim`)
    H   attention heads
    K   width of a head
    L   blocks
    C   classes, or channels of a map

`height` and `width` count pixels, `h` and `w` the cells of a grid.
"""

from typing import Any, TypeAlias

Tensor: TypeAlias = Any
"""A tensor of the active backend, or where a graph is made a `keras.KerasTensor`.

Any, as the backend is chosen at import; most functions also take NumPy arrays in its place.
"""

Shape: TypeAlias = tuple[Any, ...]
"""The sizes of an array: integers; None, or a tensor, where a graph knows one only when it runs."""

Logs: TypeAlias = Any
"""The results of an epoch by name, as callbacks get them: a dictionary, though Keras' default is None."""
