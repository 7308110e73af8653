"""Names for the arguments that Python's own types do not describe."""

from typing import Any, TypeAlias

Tensor: TypeAlias = Any
"""A tensor of the active backend, or where a graph is made a `keras.KerasTensor`.

Any, as the backend is chosen at import; most functions also take NumPy arrays in its place.
"""

Shape: TypeAlias = tuple[Any, ...]
"""The sizes of an array: integers; None, or a tensor, where a graph knows one only when it runs."""

Logs: TypeAlias = Any
"""The results of an epoch by name, as callbacks get them: a dictionary, though Keras' default is None."""
