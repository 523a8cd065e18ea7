"""MLflow: one run of the tracking store that MLflow itself is set to (``MLFLOW_TRACKING_URI``)."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.loggers.base import LoggedRun, Logger, flat, logger

__all__ = ["MLflow"]

_EXPERIMENT = "secateur"
_BATCH, _LONGEST_KEY, _LONGEST_VALUE = 100, 250, 6000
"""What MLflow takes: parameters in one call, characters of a name and of a value."""


@logger("mlflow")
class MLflow(Logger):
    """Numbers are metrics, settings are parameters, and the report is an artifact.

    The store is ``MLFLOW_TRACKING_URI``, by default MLflow's own default; the experiment ``MLFLOW_EXPERIMENT_NAME``, by
    default ``secateur``. No run is made active: code that logs with MLflow itself is not disturbed.
    """

    title = "MLflow"
    summary = "a run of MLFLOW_TRACKING_URI, with the report as an artifact"
    packages, extra = ("mlflow", "sqlalchemy", "alembic"), "mlflow"

    def start(self, run: LoggedRun) -> str:
        """Makes a run, or goes on with that of before."""
        from mlflow.tracking import MlflowClient

        self._client: Any = MlflowClient()
        self._known: dict[str, set[int]] = {}
        if run.id:
            self._client.get_run(run.id)  # raises if it is gone
            self._client.update_run(run.id, status="RUNNING")
            self._id = run.id
            return run.id
        made = self._client.create_run(self._experiment(), run_name=run.name)
        self._id = str(made.info.run_id)
        self._parameters(run.settings)
        return self._id

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        return str(self._client.create_experiment(name) if found is None else found.experiment_id)

    def _parameters(self, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(_key(name), str(value)[:_LONGEST_VALUE]) for name, value in flat(settings)]
        for begin in range(0, len(params), _BATCH):
            self._client.log_batch(self._id, params=params[begin : begin + _BATCH])

    def has(self, tag: str, step: int) -> bool:
        """Whether the store has it."""
        key = _key(tag)
        if key not in self._known:
            self._known[key] = {point.step for point in self._client.get_metric_history(self._id, key)}
        return step in self._known[key]

    def numbers(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Logs all of them in one call, which ends when they are stored."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_key(f"{group}/{name}"), value, now, step) for name, value in values.items()]
        for begin in range(0, len(metrics), _BATCH):
            self._client.log_batch(self._id, metrics=metrics[begin : begin + _BATCH], synchronous=True)

    def finish(self, files: Sequence[Path] = (), *, complete: bool = True) -> None:
        """Uploads the files and says how the run ended."""
        for file in files:
            self._client.log_artifact(self._id, str(file))
        self._client.set_terminated(self._id, status="FINISHED" if complete else "KILLED")


def _key(name: str) -> str:
    """A name as MLflow takes it.

    >>> _key("pruned/validation/f1@0.5")
    'pruned/validation/f1_0.5'
    """
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)[:_LONGEST_KEY]
