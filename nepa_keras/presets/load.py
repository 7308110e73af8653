"""Loading of official tensors into a model: strict, with named rules and a full report."""

import ctypes
import math
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

from nepa_keras.presets.checkpoint import (
    Checkpoint,
    CheckpointError,
    TensorEntry,
    as_checkpoint,
    without_prefix,
)
from nepa_keras.presets.official import (
    official_shapes,
    official_variables,
    transform_name,
    value_from_official,
)
from nepa_keras.presets.rewriting import (
    MODEL_PREFIX,
    POSITIONS,
    fold_layer_scale,
    with_model_prefix,
)

# The allowed differences between a source and a model, by name.
RULES = {
    "qk_norm_scale_ones": "QK-norm scales that the source lacks start at one",
    "new_head": "the head is initialised anew (a classifier at zero); a head of the source is ignored",
    "drop_head": "the head of the source is ignored",
    "drop_mask_token": "the mask token of the source is ignored; only masked pretraining uses it",
    "new_mask_token": "the mask token, which the source lacks, keeps its initial value",
    "drop_qk_norm": "QK-norm parameters that config.json marks as unused (qk_norm false) and that were never "
    "trained are ignored",
    "resize_positions": "learned positions of another grid are resized, bicubic with antialias; CLS stays",
    "fold_layer_scale": "LayerScale is folded into the dense layer before it (W <- diag(l) W, b <- l b)",
    "add_prefix": "names of a bare backbone (ViTNepaModel) get the prefix that they have in other models",
    "strip_prefix": "the prefix that a wrapper put before every name is removed",
    "config_defaults": "keys that config.json omits come from the weights or the authors' defaults",
}
_HEAD = ("fc_norm.", "classifier.", "pyramid.", "decode_head.", "auxiliary_head.")
_LARGE = 2**20  # elements of a variable
_QK_NORM = re.compile(r"\.[qk]_norm\.(?:weight|bias)$")
_MASK_TOKEN = "vit_nepa.embeddings.mask_token"
_REMEDIES = {
    "missing": {POSITIONS: "; pass position_embedding=None for a model without it"},
    "left over": {POSITIONS: '; pass position_embedding="learned" for a model with it'},
}


@dataclass(frozen=True)
class Assignment:
    """A variable and the official tensors it was made from (none if a rule gave its value)."""

    sources: dict[str, tuple[tuple[int, ...], str]]  # name -> shape, dtype
    target: str
    shape: tuple[int, ...]
    transform: str


@dataclass
class LoadReport:
    """Complete account of a load: the use of every tensor and the origin of every variable.

    Attributes:
        source: file or folder.
        assignments: one for each variable.
        left_out: source tensors that became no variable of their own, with the name of the rule for each.
        config: official configuration of the source, if it has one and the model is the same.
        preprocessor: content of the source's `preprocessor_config.json`, if it has one.
        details: what a rule did, by name, for rules that do not concern single tensors.

    Example:
        >>> backbone.save_to_preset("backbone")
        >>> copy = nepa_keras.NepaBackbone.from_preset("backbone")
        >>> len(copy.load_report.assignments) == len(backbone.trainable_variables)
        True
    """

    source: str
    assignments: list[Assignment] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    config: dict | None = None
    preprocessor: dict | None = None
    details: dict[str, str] = field(default_factory=dict)

    @property
    def rules(self) -> list[str]:
        """Names of the rules that were applied."""
        used = {*self.left_out.values(), *self.details}
        for assignment in self.assignments:
            used |= set(RULES) & set(assignment.transform.split(", "))
        return sorted(used)

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.assignments)} variables"]
        for a in self.assignments:
            given = " + ".join(f"{n} {s} {d}" for n, (s, d) in a.sources.items()) or "(nothing)"
            lines.append(f"  {given} -> {a.target} {a.shape}: {a.transform}")
        lines += [f"  {name} -> no variable: {rule}" for name, rule in self.left_out.items()]
        for name in self.rules:
            detail = f" ({self.details[name]})" if name in self.details else ""
            lines.append(f"rule {name}: {RULES[name]}{detail}")
        return "\n".join(lines)


def load_official_tensors(
    model: keras.Model, tensors: Mapping[str, np.ndarray], rules: Collection[str] = ()
) -> LoadReport:
    """Assign official tensors to a model: all of them, and no others, except by the given rules.

    Tensors are read one at a time, twice: everything is checked before anything is assigned.

    Args:
        model: a built backbone, pretrainer, classifier or segmenter.
        tensors: `Checkpoint`, or arrays by official name.
        rules: names of the `RULES` that may be applied.

    Returns:
        The `LoadReport`.

    Raises:
        CheckpointError: a tensor is missing, left over, not finite, or has another shape or dtype. Nothing
            is assigned then.
    """
    checkpoint = without_prefix(as_checkpoint(tensors))
    prefix = checkpoint.prefix
    report = LoadReport(checkpoint.source)
    if prefix:
        report.details["strip_prefix"] = prefix
    if "add_prefix" in rules:
        checkpoint = with_model_prefix(checkpoint)
        report.details["add_prefix"] = MODEL_PREFIX
    if "fold_layer_scale" in rules:
        folded = fold_layer_scale(checkpoint)
        report.left_out |= {prefix + n: "fold_layer_scale" for n in checkpoint if n not in folded}
        checkpoint = folded
    remaining = dict(checkpoint.entries)
    for name in list(remaining):
        if rule := _leaves_out(name, rules):
            if rule == "drop_qk_norm":
                _check_unused(checkpoint, name)
            report.left_out[prefix + name] = rule
            del remaining[name]
    planned = []
    for variable in official_variables(model):
        shapes = official_shapes(variable)
        missing = [name for name in shapes if name not in remaining]
        if missing:
            rule = _gives(missing[0], rules)
            if rule is None:
                raise CheckpointError(
                    f"{checkpoint.source} lacks {', '.join(missing)} of shape {shapes[missing[0]]}, "
                    f"needed for {variable.path}{_REMEDIES['missing'].get(missing[0], '')}."
                )
            report.assignments.append(Assignment({}, variable.path, tuple(variable.shape), rule))
            continue
        entries = {name: remaining.pop(name) for name in shapes}
        for name, entry in entries.items():
            _check(checkpoint.source, name, entry, shapes[name], variable.path)
        transform = transform_name(variable.path)
        if any(".output.dense" in name for name in shapes) and "fold_layer_scale" in rules:
            transform += ", fold_layer_scale"
        sources = {prefix + name: (e.shape, e.dtype) for name, e in entries.items()}
        report.assignments.append(
            Assignment(sources, variable.path, tuple(variable.shape), transform)
        )
        planned.append((variable, entries))
    if remaining:
        name, entry = next(iter(remaining.items()))
        more = f" and {len(remaining) - 1} more" if len(remaining) > 1 else ""
        raise CheckpointError(
            f"{checkpoint.source} holds {prefix + name!r} of shape {entry.shape}{more}, for which the "
            f"model has no variable; the configurations differ{_REMEDIES['left over'].get(name, '')}."
        )
    for _, entries in planned:
        for name, entry in entries.items():
            if not np.isfinite(entry.read()).all():
                raise CheckpointError(
                    f"{checkpoint.source}: {name!r} holds NaN or infinite values."
                )
    # Largest first, so that freed memory fits the next: TensorFlow's allocator for large tensors does not
    # return memory to the system.
    for variable, entries in sorted(planned, key=lambda pair: -math.prod(pair[0].shape)):
        values = [np.asarray(entry.read(), variable.dtype) for entry in entries.values()]
        variable.assign(value_from_official(variable.path, values))
        if math.prod(variable.shape) >= _LARGE:
            _give_back_freed_memory()
    return report


def _give_back_freed_memory() -> None:
    """Make glibc return freed memory to the system, which it may not do by itself."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # missing in other C libraries
        if trim is not None:
            trim(0)


def _leaves_out(name: str, rules: Collection[str]) -> str | None:
    for rule in ("new_head", "drop_head"):
        if rule in rules and name.startswith(_HEAD):
            return rule
    if name == _MASK_TOKEN and "drop_mask_token" in rules:
        return "drop_mask_token"
    if "drop_qk_norm" in rules and _QK_NORM.search(name):
        return "drop_qk_norm"
    return None


def _check_unused(checkpoint: Checkpoint, name: str) -> None:
    """Check that norm parameters have their initial values, as unused ones do."""
    if (checkpoint[name] != float(name.endswith(".weight"))).any():
        raise CheckpointError(
            f"{checkpoint.source}: {name!r} was trained, but config.json has qk_norm false, so it would be "
            "unused; set qk_norm to true if the trained model has QK-norm."
        )


def _gives(name: str, rules: Collection[str]) -> str | None:
    """Return the rule that keeps the initial value for a missing tensor, or None."""
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        rule = "qk_norm_scale_ones"
    elif name == _MASK_TOKEN:
        rule = "new_mask_token"
    elif name.startswith(_HEAD):
        rule = "new_head"
    else:
        return None
    return rule if rule in rules else None


def _check(source: str, name: str, entry: TensorEntry, shape: tuple[int, ...], path: str) -> None:
    if entry.shape != shape:
        raise CheckpointError(
            f"{source}: {name!r} has shape {entry.shape}, {path} needs {shape}; the configurations "
            "differ."
        )
    if entry.dtype not in ("float32", "float16", "bfloat16"):
        raise CheckpointError(
            f"{source}: {name!r} is of type {entry.dtype}; float32, float16 and bfloat16 are read."
        )


def largest_difference(a: Any, b: Any) -> float:
    """Return max |a - b| of two tensors or nested structures of tensors."""
    pairs = zip(keras.tree.flatten(a), keras.tree.flatten(b), strict=True)
    return max(
        float(np.max(np.abs(ops.convert_to_numpy(x) - ops.convert_to_numpy(y)))) for x, y in pairs
    )
