"""Recipes by name: `--recipe=NAME` stands for `--flagfile=recipes/NAME.flags`.

Imports nothing of Keras, so that a finished run is noticed before Keras is imported.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path

RECIPES = Path(__file__).parent / "recipes"


def expand_recipes(arguments: Sequence[str]) -> list[str]:
    """The arguments with the file of each --recipe in its place, so that flags after it override it.

    Raises:
        ValueError: there is no recipe of a name.
    """
    expanded, left = [], iter(arguments)
    for argument in left:
        flag, given, name = argument.partition("=")
        if flag not in ("--recipe", "-recipe"):
            expanded.append(argument)
            continue
        name = (name if given else next(left, "")).removesuffix(".flags")
        known = sorted(path.stem for path in RECIPES.glob("*.flags"))
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"--recipe={name} is none of those in {RECIPES}; the nearest is {nearest}."
            )
        expanded.append(f"--flagfile={RECIPES / name}.flags")
    return expanded
