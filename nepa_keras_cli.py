"""The scripts of `experiments/` as one command: `nepa-keras pretrain --data=...`, `python -m nepa_keras ...`.

A module beside the package and not in it, because importing `nepa_keras` imports Keras, whose backend must
be chosen before that. In a wheel the scripts lie in `nepa_keras/_experiments`, in a clone beside this file.
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

NEPA, self-supervised pretraining of Vision Transformers by next-embedding prediction. --backend is as the
variable KERAS_BACKEND of the environment, and wins over it. Without both it is the one that is installed,
or of several the one that Keras chooses.

commands:
"""
_MORE = """
nepa-keras COMMAND --help describes a command and its flags; nepa-keras --version is the version.

recipes of pretrain, finetune and segment, by --recipe=NAME:
"""
_INDENTS = ("initial_indent", "subsequent_indent")
_HELP = ("--help", "-h", "-help", "--helpfull", "help")


def scripts_folder() -> Path:
    """The folder of the scripts: `nepa_keras/_experiments` of a wheel, or `experiments` of a clone."""
    here = Path(__file__).resolve().parent
    folders = (here / "nepa_keras" / "_experiments", here / "experiments")
    return next(folder for folder in folders if (folder / "pretrain.py").is_file())


def commands(folder: Path) -> dict[str, str]:
    """The scripts of a folder that are run, by name, with the first line of their docstring."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        source = path.read_text(encoding="utf-8")
        if '\nif __name__ == "__main__":' in source:
            described = ast.get_docstring(ast.parse(source)) or ""
            found[path.stem] = described.partition("\n")[0]
    return found


def help_text(folder: Path) -> str:
    """Usage, a line for each command, and the names of the recipes."""
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
    """The arguments without --backend, and its value; the last one counts, as of any flag."""
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
        arguments: command and flags; default those of the process.
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
        _fail("no command is given; nepa-keras --help lists them.")
    name, *flags = given
    if name.startswith("-"):
        _fail(f"flags come after a command, {name} does not; nepa-keras --help lists the commands.")
    script = name.replace("-", "_").removesuffix(".py")
    known = commands(folder)
    if script not in known:
        _fail(
            f"there is no command {name!r}, the nearest is {_nearest(script, known)}; "
            "nepa-keras --help lists all."
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
    sys.path.insert(0, str(folder))  # where Python looks first for the modules of a script
    sys.argv = [path, *flags]
    # For commands to paste, which command_line.py writes.
    runpy.run_path(path, {"BY_COMMAND": True}, run_name="__main__")


if __name__ == "__main__":
    main()
