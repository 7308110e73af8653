"""Optional packages."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def required_for(purpose: str, package: str) -> Iterator[None]:
    """Around imports of an optional package: say what it is for and how it is installed.

    Args:
        purpose: what needs it, the subject of a sentence in the singular.
        package: its name for pip.

    Raises:
        ImportError: the package is missing.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{purpose} needs {package} ({error}): pip install {package}.") from error
