"""Official tensors into a model: all of them, and no others, with a report that accounts for each."""

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

# What may differ between a source and a model: each is an exception that has a name.
RULES = {
    "qk_norm_scale_ones": "QK-norm scales that the source lacks start at one",
    "new_head": "the head starts anew (a classifier at zero); that of the source is left out",
    "drop_head": "the head of the source is left out",
    "drop_mask_token": "the mask token of the source is left out; only masked pretraining uses it",
    "new_mask_token": "the mask token, which the source lacks, keeps its initial value",
    "drop_qk_norm": "QK-norm parameters that config.json leaves unused (qk_norm false) and that no training "
    "has moved are left out",
    "resize_positions": "learned positions of another grid are resized, bicubic with antialias; CLS stays",
    "fold_layer_scale": "LayerScale is folded into the dense layer before it (W <- diag(l) W, b <- l b)",
    "add_prefix": "names of a backbone alone (ViTNepaModel) get the prefix that a model around it gives them",
    "strip_prefix": "the prefix that a wrapper put before every name is taken off",
    "config_defaults": "what config.json leaves out comes from the weights, or is as in the authors' code",
}
_HEAD = ("fc_norm.", "classifier.", "pyramid.", "decode_head.", "auxiliary_head.")
_LARGE = 2**20  # numbers of a variable
_QK_NORM = re.compile(r"\.[qk]_norm\.(?:weight|bias)$")
_MASK_TOKEN = "vit_nepa.embeddings.mask_token"
_REMEDIES = {
    "missing": {POSITIONS: "; position_embedding=None does without"},
    "left over": {POSITIONS: '; position_embedding="learned" makes one'},
}


@dataclass(frozen=True)
class Assignment:
    """One variable and the official tensors it was made from (none: a rule gave its value)."""

    sources: dict[str, tuple[tuple[int, ...], str]]  # name -> shape, dtype
    target: str
    shape: tuple[int, ...]
    transform: str


@dataclass
class LoadReport:
    """Where every tensor of a source went, and where every variable came from.

    Attributes:
        source: file or folder.
        assignments: one for each variable.
        left_out: source tensor that no variable took by itself -> name of the rule that says why.
        config: official configuration of the source, if it had one and the model is the same.
        preprocessor: content of the source's `preprocessor_config.json`, if it had one.
        details: name of a rule -> what it did, for rules that are not of single tensors.
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
        lines += [f"  {name} -> nothing of its own: {rule}" for name, rule in self.left_out.items()]
        for name in self.rules:
            detail = f" ({self.details[name]})" if name in self.details else ""
            lines.append(f"rule {name}: {RULES[name]}{detail}")
        return "\n".join(lines)


def load_official_tensors(
    model: keras.Model, tensors: Mapping[str, np.ndarray], rules: Collection[str] = ()
) -> LoadReport:
    """Assigns official tensors to a backbone, pretrainer or classifier; all of them, and no others.

    Tensors are read one at a time, twice: everything is checked before anything is assigned.

    Args:
        model: built.
        tensors: official name -> array or `Checkpoint`.
        rules: names of the `RULES` that may be applied.

    Raises:
        CheckpointError: a tensor is missing, left over, not finite, or of another shape or dtype.
            Nothing is assigned then.
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
            f"model has no place; the configurations differ{_REMEDIES['left over'].get(name, '')}."
        )
    for _, entries in planned:
        for name, entry in entries.items():
            if not np.isfinite(entry.read()).all():
                raise CheckpointError(
                    f"{checkpoint.source}: {name!r} holds NaN or infinite values."
                )
    # The largest first, so that each finds room where one of its size was before: TensorFlow's allocator
    # for large tensors gives nothing back.
    for variable, entries in sorted(planned, key=lambda pair: -math.prod(pair[0].shape)):
        values = [np.asarray(entry.read(), variable.dtype) for entry in entries.values()]
        variable.assign(value_from_official(variable.path, values))
        if math.prod(variable.shape) >= _LARGE:
            _give_back_freed_memory()
    return report


def _give_back_freed_memory() -> None:
    """Tells glibc to return freed memory to the system, where it would stay among what is still used."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # another C library has none
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
    """Check that parameters of a norm are as at the start of training, as those that nothing uses stay."""
    if (checkpoint[name] != float(name.endswith(".weight"))).any():
        raise CheckpointError(
            f"{checkpoint.source}: {name!r} was trained, but config.json has qk_norm false, with which "
            "nothing uses it; write true where the model that was trained has QK-norm."
        )


def _gives(name: str, rules: Collection[str]) -> str | None:
    """The rule that gives the missing tensor its initial value."""
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
    """max |a - b| of two tensors or nested structures of them."""
    pairs = zip(keras.tree.flatten(a), keras.tree.flatten(b), strict=True)
    return max(
        float(np.max(np.abs(ops.convert_to_numpy(x) - ops.convert_to_numpy(y)))) for x, y in pairs
    )
