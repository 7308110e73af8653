"""Interface of trackers."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np


class Tracker(Protocol):
    """Recorder of a run. After a stop, `begin` continues the same record.

    Attributes:
        name: name in messages.
        errors: exceptions of the tracker itself, such as a server that does not answer. A tracker that
            raises one is dropped, and training goes on.

    Example:
        >>> class PrintTracker(Tracker):
        ...     name, errors = "print", ()
        ...     def scalars(self, values, step):
        ...         print(step, values)
        >>> PrintTracker().scalars({"loss": -0.5}, step=1)
        1 {'loss': -0.5}
    """

    name: str
    errors: tuple[type[Exception], ...]

    def begin(self, step: int) -> None:
        """Begin or continue the record. Scalars of later steps, from a killed process, become invalid.

        Args:
            step: steps done; 0 for a new run.
        """

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Record finite numbers by name, after `step` steps."""

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Record a picture, uint8 (height, width, 3)."""

    def table(self, name: str, rows: Sequence[Sequence[str]], step: int) -> None:
        """Record a table; its first row is the header."""

    def finish(self, complete: bool) -> None:
        """Flush and close the record before the process ends.

        Args:
            complete: True if the run is done; False if it was stopped and may go on.
        """
