"""Former names of public objects, which still work and warn."""

import importlib
import warnings
from collections.abc import Callable
from typing import Any


def former_names(package: str, names: dict[str, str]) -> Callable[[str], Any]:
    """Create the `__getattr__` of a package that has renamed some of its objects.

    Args:
        package: the package's `__name__`.
        names: new names by former names.
    """

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        warn_renamed(f"{package}.{name}", f"{package}.{names[name]}")
        return getattr(importlib.import_module(package), names[name])

    return __getattr__


def warn_renamed(former: str, name: str) -> None:
    """Issue a `DeprecationWarning` at the caller's caller."""
    warnings.warn(f"{former} is now called {name}.", DeprecationWarning, stacklevel=3)
