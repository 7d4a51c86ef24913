"""Follow a run in MLflow, in a local SQLite file unless a server is given."""

import importlib
import os
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from dpet_jax.trackers.base import (
    Once,
    TrackedRun,
    Tracker,
    Writer,
    kept_id,
    leaves,
    measurements,
)

# Of a run of theirs, the number of the last event that it holds.
_LAST = "dpet.last_event_id"
# MLflow's own limit of the values of a parameter.
_LONGEST = 500


class Mlflow(Tracker):
    """MLflow; `mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db` shows it."""

    kind: Literal["mlflow"] = "mlflow"
    experiment: str = Field("dpet", min_length=1, description="that the run belongs to")
    uri: str | None = Field(
        None, description="of a tracking server; null: mlflow.db in the folder"
    )

    needs: ClassVar[tuple[str, str] | None] = ("mlflow", "mlflow")

    def check(self) -> None:
        """Import MLflow, which is to tell nobody what it is called for.

        Raises:
            UserError: If it is not installed, with what to install.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        super().check()
        importlib.import_module("mlflow.tracking")

    def open(self, run: TrackedRun) -> Writer:
        """Begin a run of theirs, or go on with the one that ours began."""
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        place = self.place(run).resolve()
        uri = self.uri
        if uri is None:
            place.mkdir(parents=True, exist_ok=True)
            uri = f"sqlite:///{place / 'mlflow.db'}"
        client = MlflowClient(tracking_uri=uri)

        def begin() -> str:
            found = client.get_experiment_by_name(self.experiment)
            if found is None:
                files = None if self.uri else (place / "artifacts").as_uri()
                experiment = client.create_experiment(self.experiment, files)
            else:
                experiment = found.experiment_id
            begun = client.create_run(experiment, run_name=run.title)
            params = [
                Param(key, str(value)[:_LONGEST]) for key, value in leaves(run.config)
            ]
            for first in range(0, len(params), 100):  # the most that a call takes
                client.log_batch(begun.info.run_id, params=params[first : first + 100])
            return begun.info.run_id

        name = kept_id(run, "mlflow", begin)
        last = int(client.get_run(name).data.tags.get(_LAST, -1))
        return _Run(client, name, run.step, Once(run, last))


class _Run:
    def __init__(self, client: Any, run_id: str, step: int, once: Once) -> None:
        self._client = client
        self._id = run_id
        self._step = step
        self._once = once
        client.set_terminated(run_id, "RUNNING")

    def write(self, event: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric, RunTag

        self._step = event.get("visits", self._step)
        now = int(1000 * time.time())
        metrics = [
            Metric(name, value, now, self._step)
            for name, value in measurements(event).items()
        ]
        if metrics and not self._once.had(event):
            held = (
                [RunTag(_LAST, str(event["event_id"]))] if "event_id" in event else []
            )
            self._client.log_batch(self._id, metrics=metrics, tags=held)

    def close(self, *, finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")
