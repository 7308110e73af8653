"""Parameter groups: which variables decay, and at which rate they learn."""

import math
from dataclasses import dataclass

from nepa_keras.training.layerwise import Layerwise, Place


@dataclass(frozen=True)
class ParameterGroup:
    """Variables (by index in the optimizer's list) that share a rate and a decay.

    Attributes:
        learning_rate_factor: of the optimizer's rate.
        place: where they are, if the schedule has a rate for each place.
    """

    name: str
    indices: tuple[int, ...]
    learning_rate_factor: float
    weight_decay: float
    place: Place | None = None


def parameter_groups(
    variables, weight_decay: float, embedding_learning_rate_factor: float = 1.0, schedule=None
) -> list[ParameterGroup]:
    """The official groups: everything of rank >= 2 decays, nothing else does.

    Matrices, the patch kernel and the CLS token (1, 1, D) decay; biases, norms and LayerScale are
    vectors and do not. The embedding (CLS and patches) may have its own rate.

    Args:
        schedule: with a layer-wise one there are two groups for each of its places, in the order
            of the variables.
    """
    if isinstance(schedule, Layerwise):
        return _layerwise_groups(variables, weight_decay, schedule)
    kinds: dict[tuple, list[int]] = {}
    for index, variable in enumerate(variables):
        embedding = "patch_embedding/" in variable.path and embedding_learning_rate_factor != 1.0
        kinds.setdefault((embedding, _decays(variable)), []).append(index)
    return [
        ParameterGroup(
            name=("embedding " if embedding else "") + ("matrices" if decays else "vectors"),
            indices=tuple(indices),
            learning_rate_factor=embedding_learning_rate_factor if embedding else 1.0,
            weight_decay=weight_decay if decays else 0.0,
        )
        for (embedding, decays), indices in sorted(kinds.items(), reverse=True)
    ]


def _decays(variable) -> bool:
    return len(variable.shape) >= 2


def _layerwise_groups(variables, weight_decay, schedule) -> list[ParameterGroup]:
    kinds: dict[tuple, list[int]] = {}
    for index, variable in enumerate(variables):
        kinds.setdefault((schedule.place(variable.path), _decays(variable)), []).append(index)
    return [
        ParameterGroup(
            name=f"{place.name} {'matrices' if decays else 'vectors'}",
            indices=tuple(indices),
            learning_rate_factor=1.0,
            weight_decay=weight_decay if decays else 0.0,
            place=place,
        )
        for (place, decays), indices in kinds.items()
    ]


def group_table(groups: list[ParameterGroup], variables, schedule=None, frozen=()) -> str:
    """The groups as text; every variable is in exactly one.

    Args:
        groups: of `variables`.
        schedule: whose rates and warm-ups are shown, if it is a layer-wise one.
        frozen: variables that are not trained, also the statistics of BatchNorm.
    """
    layerwise = isinstance(schedule, Layerwise)
    rates = f"{'peak lr':>12}{'warm-up':>9}" if layerwise else f"{'lr x':>8}"
    lines = [f"{'parameter group':<22}{'tensors':>8}{'parameters':>14}{rates}{'decay':>8}"]
    for group in groups:
        count = sum(math.prod(variables[i].shape) for i in group.indices)
        rates = f"{group.learning_rate_factor:>8g}"
        if layerwise:
            warmup = schedule.warmup_of(group.place)
            rates = f"{schedule.rate_at(warmup, group.place):>12.4g}{warmup:>9}"
        lines.append(
            f"{group.name:<22}{len(group.indices):>8}{count:>14,}{rates}{group.weight_decay:>8g}"
        )
    statistics = [v for v in frozen if v.path.endswith(("moving_mean", "moving_variance"))]
    for name, rest in (
        ("frozen", [v for v in frozen if not any(v is s for s in statistics)]),
        ("statistics", statistics),
    ):
        if rest:
            count = sum(math.prod(v.shape) for v in rest)
            lines.append(f"{name:<22}{len(rest):>8}{count:>14,}")
    total = sum(math.prod(v.shape) for v in (*variables, *frozen))
    lines.append(f"{'all':<22}{len(variables) + len(frozen):>8}{total:>14,}")
    return "\n".join(lines)
