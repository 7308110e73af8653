"""Recipes read as files, and where a run departs from those of the paper and of the released scripts."""

import sys
from collections.abc import Iterator
from pathlib import Path

from absl import flags
from recipe_names import RECIPES

# Flags that say where, not how: of data, folders, speed and what is measured.
_NOT_OF_A_RECIPE = (
    "model weights data data_dir image_column label_column nested_classes multi_label label_separator "
    "validation_data validation_split validation_share channels bad_images "
    "bad_images_share cache_dir cache_size tracker "
    "run_dir distribute mesh keep_last keep_every replay remat jit_compile seed evaluate "
    "monitor_images finetune_steps finetune_learning_rate"
).split()


def flags_of(recipe: Path) -> Iterator[tuple[str, str | None]]:
    """Name and text of each flag in a flag file; None for a boolean, whose name may begin with "no"."""
    for line in recipe.read_text().splitlines():
        if line.startswith("--"):
            name, given, text = line[2:].strip().partition("=")
            yield name, text if given else None


def departures(recipe: Path, key_flags, values: dict) -> list[str]:
    """In which flags this run is not the recipe of a flag file, as "name value (there value)".

    Args:
        recipe: a flag file of the script; where it is silent it means the defaults.
        key_flags: of the script.
        values: to compare in place of flags, such as the effective batch size.
    """
    recipes = {flag.name: flag.default for flag in key_flags}
    for name, text in flags_of(recipe):
        if text is not None:
            recipes[name] = flags.FLAGS[name].parser.parse(text)
        else:  # a boolean, or its negation
            on = name in flags.FLAGS
            recipes[name if on else name.removeprefix("no")] = on
    mine = {flag.name: values.get(flag.name, flag.value) for flag in key_flags}
    return [
        f"{name} {mine[name]} (there {recipes[name]})"
        for name in mine
        if name not in _NOT_OF_A_RECIPE and mine[name] != recipes[name]
    ]


def warn_of_departures(script: str, backbone, effective_batch: int, **values) -> None:
    """Print where a run of a model of the paper's sizes is not the recipe for it that is nearest.

    Args:
        script: "pretrain" or "finetune"; its recipes are recipes/SOURCE_SCRIPT_SIZE.flags.
        values: what flags came to.
    """
    sizes = {768: "base", 1024: "large"}
    if backbone.hidden_dim not in sizes:
        return
    recipes = RECIPES.glob(f"*_{script}_{sizes[backbone.hidden_dim]}.flags")
    # What counts is the batch of an update, however it is made up.
    values |= {"batch_size": effective_batch, "accumulation_steps": 1}
    key_flags = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    found = {recipe.name: departures(recipe, key_flags, values) for recipe in sorted(recipes)}
    nearest = min(found, key=lambda name: len(found[name]))
    if found[nearest]:
        print(f"not as in recipes/{nearest}: {'; '.join(found[nearest])}\n")
