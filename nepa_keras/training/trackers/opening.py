"""Trackers by name, and several trackers as one."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from nepa_keras.training.trackers.mlflow import MlflowTracker
from nepa_keras.training.trackers.protocol import Tracker
from nepa_keras.training.trackers.tensorboard import TensorBoardTracker
from nepa_keras.training.trackers.wandb import WandbTracker


class _Kind(NamedTuple):
    """A tracker's class, the package that it imports, and that package's name for pip."""

    tracker: Callable[..., Tracker]
    package: str
    pip_name: str


TRACKERS = {
    "tensorboard": _Kind(TensorBoardTracker, "tensorboardX", "tensorboardX"),
    "mlflow": _Kind(MlflowTracker, "mlflow", "mlflow-skinny"),
    "wandb": _Kind(WandbTracker, "wandb", "wandb"),
}


def check_trackers(names: Iterable[str]) -> None:
    """Check that `open_trackers` would succeed, before any work and without importing packages.

    Raises:
        ValueError: there is no tracker of that name.
        ImportError: its package is missing.
    """
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"There is no tracker {name!r}; choose from {', '.join(TRACKERS)}.")
        _, package, pip_name = TRACKERS[name]
        if find_spec(package) is None:
            raise ImportError(
                f"The tracker {name} needs {package}, which is not installed: pip install {pip_name}."
            )


def open_trackers(
    names: Iterable[str], run_dir: str | os.PathLike, config: Mapping[str, str] | None = None
) -> "Trackers":
    """Create the trackers of a run, combined into one.

    Args:
        names: keys of `TRACKERS`; none records nothing.
        run_dir: existing folder of the run.
        config: values that describe the run, such as flags.

    Raises:
        ValueError, ImportError: see `check_trackers` and `TrackerRecord`.

    Example:
        >>> with open_trackers(["tensorboard"], ".") as tracker:
        ...     tracker.begin(step=0)
        ...     tracker.scalars({"loss": -0.5}, step=1)
    """
    names = list(dict.fromkeys(names))
    check_trackers(names)
    return Trackers([TRACKERS[name].tracker(run_dir, config) for name in names])


class Trackers(Tracker):
    """Several trackers as one; on exit of its context they finish, as complete if there was no error.

    A tracker that raises one of its own errors is dropped with one sentence, and training goes on.

    Args:
        trackers: list of trackers, may be empty.

    Example:
        >>> with Trackers([TensorBoardTracker(".")]) as tracker:
        ...     tracker.begin(step=0)
        ...     tracker.scalars({"loss": -0.5}, step=1)
    """

    name = "trackers"
    errors: tuple[type[Exception], ...] = ()

    def __init__(self, trackers: Sequence[Tracker]):
        self.trackers = list(trackers)

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.finish(complete=kind is None)

    def begin(self, step: int) -> None:
        self._each(lambda tracker: tracker.begin(step))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._each(lambda tracker: tracker.scalars(values, step))

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._each(lambda tracker: tracker.picture(name, pixels, step))

    def table(self, name: str, rows: Sequence[Sequence[str]], step: int) -> None:
        self._each(lambda tracker: tracker.table(name, rows, step))

    def finish(self, complete: bool) -> None:
        self._each(lambda tracker: tracker.finish(complete))

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for tracker in list(self.trackers):
            try:
                act(tracker)
            except tracker.errors as error:
                print(f"{tracker.name} is dropped for the rest of this run: {error}", flush=True)
                self.trackers.remove(tracker)
