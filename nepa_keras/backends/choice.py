"""Check of the requested backend before Keras is imported, with a shorter message than Keras' traceback."""

import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

BACKENDS = ("jax", "tensorflow", "torch")  # also the package names
_MEANT = {"pytorch": "torch", "tf": "tensorflow"}


def leave_choice_to_command() -> None:
    """Hand `python -m nepa_keras` over to `nepa_keras_cli` in the same process, before Keras is imported.

    Python imports a package before it reads the command line, which may hold --backend. Any other import of
    the package is unaffected.
    """
    # sys.argv[0] is "-m" while Python searches for the module.
    before = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv[1:])]
    if sys.argv[:1] == ["-m"] and before[-2:] == ["-m", "nepa_keras"]:
        os.execv(sys.executable, [*before[:-1], "nepa_keras_cli", *sys.argv[1:]])


def check_choice() -> None:
    """Check that the backend which Keras would use is supported and installed.

    Does nothing if Keras is already imported.

    Raises:
        ImportError: it is not; the message says what to set or install.
    """
    if "keras" in sys.modules:
        return
    given = os.environ.get("KERAS_BACKEND")
    name = given or _configured()
    asked = (
        f"KERAS_BACKEND={given} asks for" if given else "KERAS_BACKEND is not set, so Keras takes"
    )
    if name not in BACKENDS:
        lower = name.lower()
        meant = [lower] if lower in BACKENDS else [_MEANT[lower]] if lower in _MEANT else BACKENDS
        raise ImportError(f"{asked} {name!r}, which is no supported backend; {_set_one_of(meant)}.")
    if not find_spec(name):
        installed = [backend for backend in BACKENDS if find_spec(backend)]
        instead = f", or {_set_one_of(installed)}" if installed else ""
        raise ImportError(f"{asked} {name}, which is not installed: pip install {name}{instead}.")


def _set_one_of(backends: Sequence[str]) -> str:
    return "set " + " or ".join(f"KERAS_BACKEND={backend}" for backend in backends)


def _configured() -> str:
    """Return the backend in Keras' configuration file."""
    folder = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    try:
        return json.loads((Path(folder) / "keras.json").read_text())["backend"]
    except (OSError, ValueError, KeyError):
        return "tensorflow"
