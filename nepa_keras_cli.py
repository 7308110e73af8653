"""Command line of the library: `nepa-keras COMMAND ...` runs the script `experiments/COMMAND.py`.

This module is outside the package because importing `nepa_keras` imports Keras, whose backend must be chosen
first. In a wheel the scripts are in `nepa_keras/_experiments`, in a clone in `experiments`.
"""

import ast
import difflib
import os
import re
import runpy
import sys
import textwrap
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

BACKENDS = ("jax", "tensorflow", "torch")
_USAGE = """\
nepa-keras COMMAND [--backend=jax|tensorflow|torch] [--FLAG=VALUE ...]

NEPA: self-supervised pretraining of Vision Transformers by next-embedding prediction. --backend selects the
Keras backend and overrides the environment variable KERAS_BACKEND. Without both the only installed backend is
taken, or of several the one that Keras chooses.

commands:
"""
_MORE = """
nepa-keras COMMAND --help describes a command and its flags; nepa-keras --version is the version.

recipes (sets of flags) of pretrain, finetune and segment, for --recipe=NAME:
"""
_INDENTS = ("initial_indent", "subsequent_indent")
_HELP = ("--help", "-h", "-help", "--helpfull", "help")


def scripts_folder() -> Path:
    """Folder of the scripts: `nepa_keras/_experiments` in a wheel, or `experiments` in a clone."""
    here = Path(__file__).resolve().parent
    folders = (here / "nepa_keras" / "_experiments", here / "experiments")
    return next(folder for folder in folders if (folder / "pretrain.py").is_file())


def commands(folder: Path) -> dict[str, str]:
    """First docstring line of each runnable script in a folder, by name of the script."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        if '\nif __name__ == "__main__":' in source:
            described = ast.get_docstring(ast.parse(source)) or ""
            found[path.stem] = described.partition("\n")[0]
    return found


def help_text(folder: Path) -> str:
    """Text of --help: usage, a line for each command, and the names of the recipes."""
    described = commands(folder)
    width = max(map(len, described))
    lines = "\n".join(f"  {name:{width}}  {line}" for name, line in described.items())
    recipes = ", ".join(sorted(path.stem for path in (folder / "recipes").glob("*.flags")))
    return f"{_USAGE}{lines}\n{_MORE}{textwrap.fill(recipes, 110, **dict.fromkeys(_INDENTS, '  '))}"


def _version() -> str:
    """`nepa_keras.__version__`, without the import; a clone need not be installed."""
    source = (Path(__file__).resolve().parent / "nepa_keras" / "__init__.py").read_text("utf-8")
    return re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE)[0]


def _nearest(word: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)[0]


def _fail(sentence: str) -> None:
    sys.exit(f"nepa-keras: {sentence}")


def _without_backend(arguments: list[str]) -> tuple[list[str], str | None]:
    """Split --backend from the arguments; return the others and its last value, or None."""
    rest, backend, left = [], None, iter(arguments)
    for argument in left:
        name, given, value = argument.partition("=")
        if name not in ("--backend", "-backend"):
            rest.append(argument)
        else:
            backend = value if given else next(left, "")
    return rest, backend


def main(arguments: list[str] | None = None) -> None:
    """Run a command in this process, as `python experiments/COMMAND.py` does.

    Args:
        arguments: command and flags; default those of the process (`sys.argv`).
    """
    given, backend = _without_backend(sys.argv[1:] if arguments is None else arguments)
    folder = scripts_folder()
    if given[:1] == ["--version"]:
        print(f"nepa_keras {_version()}")
        return
    if given[:1] == ["help"] and len(given) > 1:
        given = [given[1], "--help"]
    if given and given[0] in _HELP:
        print(help_text(folder))
        return
    if not given:
        _fail("no command is given; nepa-keras --help lists the commands.")
    name, *flags = given
    if name.startswith("-"):
        _fail(
            f"{name} is a flag; the first argument must be a command. nepa-keras --help lists the commands."
        )
    script = name.replace("-", "_").removesuffix(".py")
    known = commands(folder)
    if script not in known:
        _fail(
            f"there is no command {name!r}, the nearest is {_nearest(script, known)}; "
            "nepa-keras --help lists all commands."
        )
    if backend is not None:
        if backend not in BACKENDS:
            _fail(
                f"--backend={backend} is none of {', '.join(BACKENDS)}; the nearest is "
                f"{_nearest(backend.lower(), BACKENDS)}."
            )
        os.environ["KERAS_BACKEND"] = backend
    elif "KERAS_BACKEND" not in os.environ:
        installed = [name for name in BACKENDS if find_spec(name)]
        if len(installed) == 1:  # whatever Keras' own configuration, which it writes itself, says
            os.environ["KERAS_BACKEND"] = installed[0]
    path = str(folder / f"{script}.py")
    sys.path.insert(0, str(folder))  # as Python does for a script
    sys.argv = [path, *flags]
    # BY_COMMAND makes command_line.py print follow-up commands that start with nepa-keras.
    runpy.run_path(path, {"BY_COMMAND": True}, run_name="__main__")


if __name__ == "__main__":
    main()
