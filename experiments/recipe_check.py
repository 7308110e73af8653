"""Comparison of a run's flags with the recipes of the paper and of the released scripts."""

import sys
from collections.abc import Iterator
from pathlib import Path

from absl import flags
from recipe_names import RECIPES

# Flags that a recipe leaves open: data, folders, speed and evaluation.
_NOT_OF_A_RECIPE = (
    "model weights data data_dir image_column label_column nested_classes multi_label label_separator "
    "validation_data validation_split validation_share channels bad_images "
    "bad_images_share cache_dir cache_size tracker "
    "run_dir distribute mesh keep_last keep_every replay remat jit_compile seed evaluate "
    "monitor_images finetune_steps finetune_learning_rate"
).split()


def flags_of(recipe: Path) -> Iterator[tuple[str, str | None]]:
    """Name and text of each flag in a flag file; text None for a boolean (its name may begin with "no")."""
    for line in recipe.read_text().splitlines():
        if line.startswith("--"):
            name, given, text = line[2:].strip().partition("=")
            yield name, text if given else None


def departures(recipe: Path, key_flags, values: dict) -> list[str]:
    """Flags in which this run departs from a recipe, as "name VALUE (there RECIPE_VALUE)".

    Args:
        recipe: flag file of the script; flags it does not set have their defaults.
        key_flags: key flags of the script.
        values: values to compare in place of those of flags, such as the effective batch size.
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
    """Print departures from the nearest recipe, for a model of one of the paper's sizes.

    Args:
        script: "pretrain" or "finetune"; its recipes are recipes/SOURCE_SCRIPT_SIZE.flags.
        backbone: backbone of the run.
        effective_batch: images per update.
        values: effective values of flags, by name.
    """
    sizes = {768: "base", 1024: "large"}
    if backbone.hidden_dim not in sizes:
        return
    recipes = RECIPES.glob(f"*_{script}_{sizes[backbone.hidden_dim]}.flags")
    # Compare the effective batch, however it is split into accumulation steps.
    values |= {"batch_size": effective_batch, "accumulation_steps": 1}
    key_flags = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    found = {recipe.name: departures(recipe, key_flags, values) for recipe in sorted(recipes)}
    nearest = min(found, key=lambda name: len(found[name]))
    if found[nearest]:
        print(f"differs from recipes/{nearest}: {'; '.join(found[nearest])}\n")
