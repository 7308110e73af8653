"""Imports of optional packages."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def required_for(purpose: str, package: str) -> Iterator[None]:
    """Wrap imports of an optional package: explain what needs it and how to install it.

    Args:
        purpose: what needs the package, the subject of a sentence in the singular.
        package: name for pip.

    Raises:
        ImportError: the package is missing.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{purpose} needs {package} ({error}): pip install {package}.") from error
