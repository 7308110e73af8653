"""What is planned for: a pretraining of a flag file in experiments/recipes, or of a named architecture."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from recipe_check import RECIPES, flags_of

from nepa_keras.backbone import NepaBackbone
from plan.layouts import Recipe

# The paper's and the released scripts', by name of their flag files.
NAMES = tuple(
    f"{source}_pretrain_{size}" for size in ("base", "large") for source in ("paper", "released")
)


@dataclass(frozen=True)
class Pretraining:
    """An architecture, and how long and how wide it is trained.

    Attributes:
        name: for the tables.
        preset: name of the architecture.
        recipe: the run.
        overrides: arguments of the backbone that the preset has otherwise.
    """

    name: str
    preset: str
    recipe: Recipe
    overrides: Mapping[str, bool] = field(default_factory=dict)

    def build(self) -> NepaBackbone:
        """The backbone, with fresh weights and this name."""
        return NepaBackbone.from_preset(
            self.preset, load_weights=False, name=self.name, **self.overrides
        )


def of_recipe(name: str, epochs: int | None = None, batch_size: int | None = None) -> Pretraining:
    """The pretraining of a flag file.

    Args:
        name: one of `NAMES`.
        epochs, batch_size: in place of those of the file.
    """
    given = dict(flags_of(RECIPES / f"{name}.flags"))
    overrides = {flag: flag in given for flag in ("gated_mlp", "qk_norm_scale")}
    recipe = Recipe(epochs or int(given["epochs"]), batch_size or int(given["batch_size"]))
    return Pretraining(name, given["preset"], recipe, overrides)
