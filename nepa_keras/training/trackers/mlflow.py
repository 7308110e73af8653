"""MLflow: a run in a file store beside the folders of the runs, or at MLFLOW_TRACKING_URI."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nepa_keras.packages import required_for
from nepa_keras.tables import markdown_table
from nepa_keras.training.trackers.record import RecordedTracker

_LONGEST = 500  # characters of a parameter that all versions of MLflow accept


class MlflowTracker(RecordedTracker):
    """A run in MLflow, at MLFLOW_TRACKING_URI or by default in the folder mlruns beside RUN_DIR.

    The experiment is MLFLOW_EXPERIMENT_NAME, by default nepa_keras; the run is named like the folder.
    Pictures and tables (as Markdown) are stored as artifacts.

    Args:
        run_dir: folder of the run.
        config: parameters, such as flags.

    Raises:
        ImportError: mlflow is missing.
        ValueError: see `TrackerRecord`.
    """

    name = "MLflow"

    def __init__(self, run_dir: str | os.PathLike, config: Mapping[str, str] | None = None):
        with required_for("The tracker mlflow", "mlflow-skinny"):
            import mlflow
            import mlflow.entities
            import mlflow.exceptions
        self.errors: tuple[type[Exception], ...] = (mlflow.exceptions.MlflowException, OSError)
        self._mlflow: Any = mlflow
        super().__init__(run_dir, config, "mlflow")
        self.store = os.environ.get("MLFLOW_TRACKING_URI")
        if not self.store:
            self.store = (self.run_dir.path.resolve().parent / "mlruns").as_uri()
            # MLflow 3 requires it for file stores; its databases need several hundred MB of packages.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self.client: Any = None

    def begin(self, step: int) -> None:
        self._open()

    def _open(self) -> str:
        """Return the id of the run; the first call creates or reopens the run."""
        if self.client is None:
            self.client = self._mlflow.MlflowClient(self.store)
            if self.record.id is not None and self._is_known(self.record.id):
                self.client.update_run(self.record.id, status="RUNNING")
            else:
                self.record.keep(self._new_run(), 0)
            self.send_missing()
        assert self.record.id is not None
        return self.record.id

    def _is_known(self, identity: str) -> bool:
        try:
            self.client.get_run(identity)
        except self._mlflow.exceptions.MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            print(f"{self.store} no longer has the run {identity}; a new run is created there")
            return False
        return True

    def _new_run(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "nepa_keras"
        experiment = self.client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment else self.client.create_experiment(name)
        run = self.client.create_run(place, run_name=self.run_dir.path.resolve().name)
        parameters = [
            self._mlflow.entities.Param(key, value[:_LONGEST]) for key, value in self.config.items()
        ]
        self.client.log_batch(run.info.run_id, params=parameters)
        return run.info.run_id

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        identity = self._open()
        if step <= self.record.step:
            return
        now = int(1000 * time.time())
        metrics = [self._mlflow.entities.Metric(k, v, now, step) for k, v in values.items()]
        self.client.log_batch(identity, metrics=metrics)
        self.record.keep(identity, step)

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        identity = self._open()
        self.client.log_image(identity, pixels, f"pictures/{name}.png")

    def table(self, name: str, rows: Sequence[Sequence[str]], step: int) -> None:
        identity = self._open()
        self.client.log_text(identity, markdown_table(rows), f"results/{name}.md")

    def finish(self, complete: bool) -> None:
        if self.client is not None:
            self.client.set_terminated(self.record.id, "FINISHED" if complete else "KILLED")
            self.client = None
