"""What a tracker of runs is asked to do."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np


class Tracker(Protocol):
    """Takes what a run records. A run that was stopped goes on in the same record, by `begin`.

    Attributes:
        name: for messages.
        errors: exceptions that are the tracker's own, such as a server that does not answer. Training goes
            on without a tracker that raises one.
    """

    name: str
    errors: tuple[type[Exception], ...]

    def begin(self, step: int) -> None:
        """Begin the record, or go on with it; scalars of later steps, of a process that was killed, are void.

        Args:
            step: steps that are done, 0 of a new run.
        """

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers, each finite, after a number of steps."""

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Record a picture, uint8 (height, width, 3)."""

    def table(self, name: str, rows: Sequence[Sequence[str]], step: int) -> None:
        """Record a table; its first row is the head."""

    def finish(self, complete: bool) -> None:
        """Bring all to its place, before the process ends.

        Args:
            complete: whether the run is done; else it was stopped, and may go on.
        """
