"""Choice of the weights to load from a run's folder or one of its checkpoints."""

from pathlib import Path
from typing import Literal, NamedTuple

from nepa_keras.presets.folder import CONFIG
from nepa_keras.presets.training_state import STATE, WITHOUT_CONFIG, keeps_averages
from nepa_keras.training.checkpoints import Checkpoints
from nepa_keras.training.run_dir import RunDir

Kind = Literal["trained", "ema"]
_WORDS = {"trained": "trained", "ema": "averaged"}


class RunWeights(NamedTuple):
    """Weights of a run, for `from_preset(folder, ema=ema)`.

    Attributes:
        folder: exported weights or a checkpoint.
        ema: True to take the averages of a checkpoint; exported weights are of one kind.
        description: kind and step of the weights, such as "averaged weights of step 400".
        damaged: a sentence for each newer checkpoint that is damaged.

    Example:
        >>> backbone.save_to_preset("run/trained")
        >>> find_weights("run").description
        'trained weights of the end'
    """

    folder: Path
    ema: bool
    description: str
    damaged: tuple[str, ...] = ()


def find_weights(path: str | Path, weights: Kind | None = None) -> RunWeights | None:
    """Find the weights of a run, or of one of its checkpoints.

    For a finished run these are `best/`, else `ema/`, else `trained/`, as the run itself recommends; for an
    unfinished one its newest whole checkpoint. Of a checkpoint the averages are preferred, if the run keeps
    them.

    Args:
        path: RUN_DIR, RUN_DIR/checkpoints, or RUN_DIR/checkpoints/step-XXXXXXXX.
        weights: "trained" or "ema" instead of the default; for a finished run these are of its last step.

    Returns:
        None if the path is something else, such as a preset's folder.

    Raises:
        ValueError: the run has not saved weights, or not such weights; or the checkpoint does not describe
            its model.
    """
    path = Path(path).expanduser()
    if (path / STATE).is_file():
        return _of_checkpoint(path, weights)
    if (path / CONFIG).exists():
        return None
    run = RunDir(path.parent if path.name == "checkpoints" else path)
    exported = [f for f in (run.best, run.ema, run.trained) if (f / CONFIG).is_file()]
    steps = Checkpoints(run.checkpoints).steps()
    if not (exported or steps or run.flags.is_file()):
        return None
    wanted = {None: exported, "ema": [run.ema], "trained": [run.trained]}[weights]
    # Before the end of the run, best/ may be far older than the newest checkpoint.
    ended = run.ema in exported or run.trained in exported or not steps
    if path == run.path and ended and (found := [f for f in wanted if f in exported]):
        return RunWeights(found[0], False, _description(run, found[0]))
    checkpoints = Checkpoints(run.checkpoints)
    step = checkpoints.newest_step()
    if step is None:
        kind = f"{_WORDS[weights]} weights" if weights else "weights"
        remedy = f"use {' or '.join(map(str, exported))}" if exported else "resume the run"
        said = f"{path} belongs to a run that has no usable {kind}; {remedy}."
        raise ValueError(" ".join([said, *checkpoints.damaged]))
    return _of_checkpoint(checkpoints.path(step), weights, tuple(checkpoints.damaged))


def _of_checkpoint(folder: Path, weights: Kind | None, damaged: tuple[str, ...] = ()) -> RunWeights:
    config = folder / CONFIG
    if not config.is_file():
        raise ValueError(f"{folder} has no {CONFIG}{WITHOUT_CONFIG}.")
    averages = keeps_averages(config)
    if weights == "ema" and not averages:
        raise ValueError(
            f"{folder} has no averaged weights: the optimizer keeps none, or had made no step; use the "
            "trained weights."
        )
    kind = weights or ("ema" if averages else "trained")
    return RunWeights(
        folder, kind == "ema", f"{_WORDS[kind]} weights of {_step_of(folder)}", damaged
    )


def _step_of(folder: Path) -> str:
    digits = folder.name.rpartition("-")[2]
    return f"step {int(digits):,}" if digits.isdecimal() else "a checkpoint"


def _description(run: RunDir, folder: Path) -> str:
    """Describe exported weights by the step of the run's end or of the best validation, if still known."""
    checkpoints = Checkpoints(run.checkpoints)
    last = max(checkpoints.steps(), default=None)
    if folder != run.best:
        return f"{_WORDS[folder.name]} weights of " + (f"step {last:,}" if last else "the end")
    try:
        found = checkpoints.record(last or 0)["validation"]
        step, kind = int(found["best"]["step"]), found["best_prefix"]
    except (OSError, ValueError, KeyError, TypeError):  # removed, or of another kind
        return "weights of the best validation"
    kind = "ema" if kind == "ema_val" else "trained"
    return f"{_WORDS[kind]} weights of the best validation, at step {step:,}"
