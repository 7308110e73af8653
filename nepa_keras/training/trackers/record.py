"""Memory of a run's record in a tracker, so that the run continues there after a stop."""

import json
import os
from collections.abc import Mapping

from nepa_keras.files import replacing
from nepa_keras.training.run_dir import RunDir
from nepa_keras.training.trackers.protocol import Tracker


class TrackerRecord:
    """The id of a run in a tracker, and the last step sent there, in RUN_DIR/trackers.json.

    Most trackers cannot delete a value. A killed run computes the steps after its last checkpoint again, with
    the same results, so values that were already sent are not sent again.

    Args:
        run: folder of the run.
        tracker: key in the file.

    Raises:
        ValueError: the file is damaged.
    """

    def __init__(self, run: RunDir, tracker: str):
        self.run, self.tracker = run, tracker
        known = self._read().get(tracker, {})
        self.id: str | None = known.get("id")
        self.step: int = known.get("step", 0)

    def keep(self, identity: str, step: int) -> None:
        """Store id and last step."""
        self.id, self.step = identity, step
        known = self._read() | {self.tracker: {"id": identity, "step": step}}
        with replacing(self.run.trackers) as path:
            path.write_text(json.dumps(known, indent=1), encoding="utf-8")

    def _read(self) -> dict[str, dict]:
        if not self.run.trackers.exists():
            return {}
        try:
            known = json.loads(self.run.trackers.read_text(encoding="utf-8"))
            return {str(name): dict(of_tracker) for name, of_tracker in known.items()}
        except (ValueError, TypeError, AttributeError):
            raise ValueError(
                f"{self.run.trackers} is damaged; delete it, and the run will start new records in its "
                "trackers."
            ) from None


class RecordedTracker(Tracker):
    """A tracker that remembers by its record which run it is, and which numbers it has.

    Args:
        run_dir: of the run.
        config: what makes the run what it is, such as flags.
        name: in RUN_DIR/trackers.json.

    Raises:
        ValueError: see `TrackerRecord`.
    """

    def __init__(self, run_dir: str | os.PathLike, config: Mapping[str, str] | None, name: str):
        self.run_dir, self.config = RunDir(run_dir), dict(config or {})
        self.record = TrackerRecord(self.run_dir, name)

    def send_missing(self) -> None:
        """Send the rows of log.csv that an earlier start did not bring to the tracker.

        It was killed before the tracker had written them, the server did not answer, or it had no tracker.
        """
        for step, values in self.run_dir.read_log():
            self.scalars(values, step)
