"""Where a run departs from the paper's recipe."""

import sys
from pathlib import Path

from absl import flags

# Flags that say where, not how: of data, folders, speed and what is measured.
_NOT_OF_A_RECIPE = (
    "model data data_dir validation_data validation_split validation_share channels bad_images "
    "bad_images_share run_dir distribute mesh keep_last keep_every replay remat jit_compile seed evaluate "
    "monitor_images finetune_steps finetune_learning_rate"
).split()


def departures(recipe: Path, key_flags, values: dict) -> list[str]:
    """In which flags this run is not the recipe of a flag file, as "name value (there value)".

    Args:
        recipe: a flag file of the script; where it is silent it means the defaults.
        key_flags: of the script.
        values: to compare in place of flags, such as the effective batch size.
    """
    recipes = {flag.name: flag.default for flag in key_flags}
    for line in recipe.read_text().splitlines():
        if line.startswith("--"):
            name, given, text = line[2:].strip().partition("=")
            if given:
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
    """Print where a run of a model of the paper's sizes is not the paper's recipe for it.

    Args:
        values: what flags came to.
    """
    sizes = {768: "base", 1024: "large"}
    if backbone.hidden_dim not in sizes:
        return
    recipe = Path(__file__).parent / "recipes" / f"{script}_{sizes[backbone.hidden_dim]}.flags"
    # What counts is the batch of an update, however it is made up.
    values |= {"batch_size": effective_batch, "accumulation_steps": 1}
    key_flags = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    if different := departures(recipe, key_flags, values):
        print(f"not as in recipes/{recipe.name}: {'; '.join(different)}\n")
