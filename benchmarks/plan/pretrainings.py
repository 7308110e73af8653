"""Pretrainings to plan: those of flag files in experiments/recipes, or of a named architecture."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from recipe_check import RECIPES, flags_of

from nepa_keras.backbone import NepaBackbone
from plan.layouts import Recipe

# Recipes of the paper and of the released scripts, by the names of their flag files.
NAMES = tuple(
    f"{source}_pretrain_{size}" for size in ("base", "large") for source in ("paper", "released")
)


@dataclass(frozen=True)
class Pretraining:
    """An architecture with the length and batch size of its training.

    Attributes:
        name: name in the tables.
        preset: name of the architecture.
        recipe: length and batch size.
        overrides: arguments of the backbone that differ from the preset.
    """

    name: str
    preset: str
    recipe: Recipe
    overrides: Mapping[str, bool] = field(default_factory=dict)

    def build(self) -> NepaBackbone:
        """Backbone with random weights, named as this pretraining."""
        return NepaBackbone.from_preset(
            self.preset, load_weights=False, name=self.name, **self.overrides
        )


def of_recipe(name: str, epochs: int | None = None, batch_size: int | None = None) -> Pretraining:
    """Read the pretraining of a flag file.

    Args:
        name: one of `NAMES`.
        epochs, batch_size: values that replace those of the file; default None keeps them.
    """
    given = dict(flags_of(RECIPES / f"{name}.flags"))
    overrides = {flag: flag in given for flag in ("gated_mlp", "qk_norm_scale")}
    recipe = Recipe(epochs or int(given["epochs"]), batch_size or int(given["batch_size"]))
    return Pretraining(name, given["preset"], recipe, overrides)
