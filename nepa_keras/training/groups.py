"""Parameter groups: weight decay and learning rate of each variable."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import keras

from nepa_keras import backends
from nepa_keras.tables import text_table
from nepa_keras.types import Tensor


def check_rate(name: str, rate: float) -> None:
    """Refuse an invalid learning rate.

    Raises:
        ValueError: it is negative, above 1000, or NaN.
    """
    if not backends.is_rate(rate):
        raise ValueError(
            f"{name} must be a number from 0 to {backends.LARGEST_RATE:g}, got {rate}."
        )


def layer_id(path: str, num_layers: int) -> int:
    """Depth of a variable in a model with a `NepaBackbone`, from its path.

    Returns:
        0 for patch and position embedding, i + 1 for block i, num_layers + 1 for final norm and heads.
    """
    if _is_of_embedding(path):
        return 0
    block = re.search(r"(?:^|/)block_(\d+)/", path)
    return int(block[1]) + 1 if block else num_layers + 1


def _is_of_embedding(path: str) -> bool:
    return "patch_embedding/" in path or "position_embedding/" in path


class LayerGroup(NamedTuple):
    """Variables that share a learning rate.

    Attributes:
        name: name in tables.
        exponent: power of the layer decay in their rate.
        head: the base rate is the head's instead of the peak rate.
    """

    name: str
    exponent: int
    head: bool = False


class Layerwise:
    """Interface of schedules with a rate for each layer group, as used by `AdamW`."""

    def layer_group(self, path: str) -> LayerGroup:
        """Group of a variable, from its path."""
        raise NotImplementedError

    def warmup_of(self, group: LayerGroup) -> int:
        """Warm-up steps of a group."""
        raise NotImplementedError

    def rate_at(self, step: int, group: LayerGroup) -> float:
        """Rate of a group at a step, computed on the host."""
        raise NotImplementedError

    def rates(self, step: Tensor, groups: list[LayerGroup]) -> Tensor:
        """Rates of groups at a step, computed on the device."""
        raise NotImplementedError


@dataclass(frozen=True)
class ParameterGroup:
    """Variables (by index in the optimizer's list) that share a learning rate and a weight decay.

    Attributes:
        learning_rate_factor: factor of the optimizer's rate.
        layer_group: group in the schedule, if the schedule is layer-wise.
    """

    name: str
    indices: tuple[int, ...]
    learning_rate_factor: float
    weight_decay: float
    layer_group: LayerGroup | None = None


def parameter_groups(
    variables: Sequence[keras.Variable],
    weight_decay: float,
    embedding_learning_rate_factor: float = 1.0,
    schedule: Layerwise | None = None,
) -> list[ParameterGroup]:
    """Group variables as in the authors' code: those of rank >= 2 have weight decay, others do not.

    Decay applies to matrices, the patch kernel, the CLS token (1, 1, D) and learned positions (1, N, D), not
    to vectors: biases, norms, LayerScale. The embedding (CLS, patches, learned positions) may have its own
    rate.

    Args:
        variables: trainable variables in the optimizer's order.
        weight_decay: decay of the variables that have one.
        embedding_learning_rate_factor: factor of the embedding's rate.
        schedule: a layer-wise schedule gives two groups per layer group, in the order of the variables.
    """
    if schedule is not None:
        return _layerwise_groups(variables, weight_decay, schedule)
    kinds: dict[tuple, list[int]] = {}
    for index, variable in enumerate(variables):
        embedding = _is_of_embedding(variable.path) and embedding_learning_rate_factor != 1.0
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


def _decays(variable: keras.Variable) -> bool:
    return len(variable.shape) >= 2


def _layerwise_groups(
    variables: Sequence[keras.Variable], weight_decay: float, schedule: Layerwise
) -> list[ParameterGroup]:
    kinds: dict[tuple, list[int]] = {}
    for index, variable in enumerate(variables):
        kinds.setdefault((schedule.layer_group(variable.path), _decays(variable)), []).append(index)
    return [
        ParameterGroup(
            name=f"{layers.name} {'matrices' if decays else 'vectors'}",
            indices=tuple(indices),
            learning_rate_factor=1.0,
            weight_decay=weight_decay if decays else 0.0,
            layer_group=layers,
        )
        for (layers, decays), indices in kinds.items()
    ]


def group_table(
    groups: list[ParameterGroup],
    variables: Sequence[keras.Variable],
    schedule: Layerwise | None = None,
    frozen: Sequence[keras.Variable] = (),
) -> str:
    """Format the groups as a table; every variable is in exactly one row.

    Args:
        groups: groups of `variables`.
        variables: trainable variables.
        schedule: a layer-wise schedule, whose rates and warm-ups are shown.
        frozen: variables that are not trained, including BatchNorm statistics.
    """
    head = ("lr x",) if schedule is None else ("peak lr", "warm-up")
    rows: list[tuple[str, ...]] = [("parameter group", "tensors", "parameters", *head, "decay")]
    for group in groups:
        rates: tuple[str, ...] = (f"{group.learning_rate_factor:g}",)
        if schedule is not None and group.layer_group is not None:
            warmup = schedule.warmup_of(group.layer_group)
            rates = (f"{schedule.rate_at(warmup, group.layer_group):.4g}", f"{warmup}")
        counts = _counts([variables[i] for i in group.indices])
        rows.append((group.name, *counts, *rates, f"{group.weight_decay:g}"))
    statistics = [v for v in frozen if v.path.endswith(("moving_mean", "moving_variance"))]
    others = [v for v in frozen if not any(v is s for s in statistics)]
    rest = {"frozen": others, "statistics": statistics, "all": [*variables, *frozen]}
    rows += [(name, *_counts(found)) for name, found in rest.items() if found]
    return text_table(rows)


def _counts(variables: Sequence[keras.Variable]) -> tuple[str, str]:
    """Number of tensors and number of parameters, as text."""
    return f"{len(variables)}", f"{sum(math.prod(v.shape) for v in variables):,}"
