"""The state of a compiled model as a dictionary of arrays, the same on every backend.

    model/00000 ...       weights, moving statistics, seed generators
    optimizer/00000 ...   iterations, moments, averages
    metric/00000 ...      means of the log interval so far

Variables are numbered in the order of creation: their paths contain model names, which Keras numbers per
process.
"""

import keras
import numpy as np

from nepa_keras import backends

_MODEL, _OPTIMIZER, _METRIC = "model/", "optimizer/", "metric/"


class CheckpointMismatchError(ValueError):
    """Error for a checkpoint that does not fit the model."""


def model_state(model: keras.Model) -> dict[str, np.ndarray]:
    """Return everything of a compiled model that a step reads and changes, as NumPy arrays.

    These are weights, statistics, seeds and optimizer. All processes of a run must call it together, as each
    may hold a part of the variables.
    """
    # On JAX the newest weights are in the training state until they are synchronised.
    backends.sync(model)
    _build_optimizer(model)
    return _values(variables_by_name(model))


def metrics_state(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the means of the epoch so far, to be stored with `model_state`."""
    return _values(_metrics(model))


def restore_metrics(model: keras.Model, state: dict[str, np.ndarray]) -> None:
    """Restore the result of `metrics_state`; call it during `fit`, after the metrics were reset.

    Raises:
        CheckpointMismatchError: the model has other metrics.
    """
    found = {name: value for name, value in state.items() if name.startswith(_METRIC)}
    _assign(_metrics(model), found)


def restore_state(model: keras.Model, state: dict[str, np.ndarray]) -> None:
    """Restore the result of `model_state`, from any backend.

    Raises:
        CheckpointMismatchError: the state is of another model or optimizer; nothing is changed then.
    """
    _build_optimizer(model)
    ours = {n: value for n, value in state.items() if n.startswith((_MODEL, _OPTIMIZER))}
    _assign(variables_by_name(model), ours)


def _build_optimizer(model: keras.Model) -> None:
    if not model.optimizer.built:  # before the first step
        model.optimizer.build(model.trainable_variables)


def _assign(variables: dict[str, keras.Variable], state: dict[str, np.ndarray]) -> None:
    if set(variables) != set(state):
        differing = sorted(set(variables) ^ set(state))
        raise CheckpointMismatchError(
            f"The checkpoint is of another model or optimizer: {differing[0]} and {len(differing) - 1} "
            "others are in only one of the two."
        )
    for name, variable in variables.items():
        found = state[name]
        if found.shape != tuple(variable.shape) or not _same_kind(found.dtype.name, variable.dtype):
            raise CheckpointMismatchError(
                f"The checkpoint is of another model: {name} is {found.dtype.name} {found.shape} there, "
                f"{variable.dtype} {tuple(variable.shape)} here."
            )
    for name, variable in variables.items():
        variable.assign(state[name].astype(variable.dtype, copy=False))


def _same_kind(there: str, here: str) -> bool:
    """Compare dtypes; seed states are int32, uint32 or int64, depending on the backend."""
    return there == here or {there, here} <= {"int32", "uint32", "int64"}


def variables_by_name(model: keras.Model) -> dict[str, keras.Variable]:
    """Return the variables of a model and its optimizer by their names in a checkpoint."""
    optimizer = _numbered(_OPTIMIZER, model.optimizer.variables)
    return _numbered(_MODEL, model.variables) | optimizer


def _metrics(model: keras.Model) -> dict[str, keras.Variable]:
    return _numbered(_METRIC, model.metrics_variables)


def _numbered(prefix: str, variables) -> dict[str, keras.Variable]:
    return {f"{prefix}{place:05d}": variable for place, variable in enumerate(variables)}


def _values(variables: dict[str, keras.Variable]) -> dict[str, np.ndarray]:
    return {name: backends.gather_variable(variable) for name, variable in variables.items()}
