"""TensorBoard: event files in the folder of a run, without TensorFlow."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nepa_keras.packages import required_for
from nepa_keras.tables import markdown_table
from nepa_keras.training.run_dir import RunDir
from nepa_keras.training.trackers.protocol import Tracker

_SUFFIX = ".pictures"


class TensorBoardTracker(Tracker):
    """Event files for `tensorboard --logdir=RUN_DIR`, beside log.csv.

    Pictures and tables go to a separate file that replaces an earlier one, so that a finished run that is
    started again has them once.

    Args:
        run_dir: folder of the run.
        config: not recorded, as flags.txt has it.

    Raises:
        ImportError: tensorboardX is missing.

    Example:
        >>> tracker = TensorBoardTracker(".")
        >>> tracker.begin(step=0)
        >>> tracker.scalars({"loss": -0.5}, step=1)
        >>> tracker.finish(complete=True)
    """

    name = "TensorBoard"
    errors: tuple[type[Exception], ...] = ()

    def __init__(self, run_dir: str | os.PathLike, config: Mapping[str, str] | None = None):
        with required_for("Writing TensorBoard events", "tensorboardX"):
            from tensorboardX import SummaryWriter
        self._open = SummaryWriter
        self.run = RunDir(run_dir)
        self.curves: Any = None
        self.pictures: Any = None

    def begin(self, step: int) -> None:
        self.curves = self._open(str(self.run), purge_step=step + 1 if step else None)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.curves.add_scalar(name, value, step)
        self.curves.flush()

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._pictures().add_image(name, pixels, step, dataformats="HWC")

    def table(self, name: str, rows: Sequence[Sequence[str]], step: int) -> None:
        self._pictures().add_text(name, markdown_table(rows), step)

    def _pictures(self) -> Any:
        if self.pictures is None:
            for earlier in self.run.path.glob(f"events.out.*{_SUFFIX}"):
                earlier.unlink()
            self.pictures = self._open(str(self.run), filename_suffix=_SUFFIX)
        return self.pictures

    def finish(self, complete: bool) -> None:
        for writer in (self.curves, self.pictures):
            if writer is not None:
                writer.close()
        self.curves = self.pictures = None
