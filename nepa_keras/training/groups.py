"""Parameter groups: which variables decay, and at which rate they learn."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class ParameterGroup:
    """Variables (by index in the optimizer's list) that share a rate factor and a decay."""

    name: str
    indices: tuple[int, ...]
    learning_rate_factor: float
    weight_decay: float


def parameter_groups(
    variables, weight_decay: float, embedding_learning_rate_factor: float = 1.0
) -> list[ParameterGroup]:
    """The official groups: everything of rank >= 2 decays, nothing else does.

    Matrices, the patch kernel and the CLS token (1, 1, D) decay; biases, norms and LayerScale are
    vectors and do not. The embedding (CLS and patches) may have its own rate.
    """
    kinds: dict[tuple, list[int]] = {}
    for index, variable in enumerate(variables):
        embedding = "patch_embedding/" in variable.path and embedding_learning_rate_factor != 1.0
        kinds.setdefault((embedding, len(variable.shape) >= 2), []).append(index)
    return [
        ParameterGroup(
            name=("embedding " if embedding else "") + ("matrices" if decays else "vectors"),
            indices=tuple(indices),
            learning_rate_factor=embedding_learning_rate_factor if embedding else 1.0,
            weight_decay=weight_decay if decays else 0.0,
        )
        for (embedding, decays), indices in sorted(kinds.items(), reverse=True)
    ]


def group_table(groups: list[ParameterGroup], variables) -> str:
    """The groups as text; every variable is in exactly one."""
    lines = [f"{'parameter group':<22}{'tensors':>8}{'parameters':>14}{'lr x':>8}{'decay':>8}"]
    for group in groups:
        count = sum(math.prod(variables[i].shape) for i in group.indices)
        lines.append(
            f"{group.name:<22}{len(group.indices):>8}{count:>14,}"
            f"{group.learning_rate_factor:>8g}{group.weight_decay:>8g}"
        )
    total = sum(math.prod(v.shape) for v in variables)
    lines.append(f"{'all':<22}{len(variables):>8}{total:>14,}")
    return "\n".join(lines)
