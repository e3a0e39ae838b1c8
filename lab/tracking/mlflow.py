"""A run in MLflow: a store of plain files in ``outputs/mlruns``, or whatever ``tracker.uri`` names.

The store of files needs neither a database nor a server. MLflow 3 keeps it for those who ask for
it, as this process does.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from lab.config.keys import Config
from lab.config.schema import to_dict
from lab.records.origin import Origin
from lab.tracking.folders import mlflow_store
from lab.tracking.labels import labels_of
from lab.tracking.logged import SAVED_FILES, figures, parameters, summary_figures

BATCH, PARAMETERS = 1000, 100  # at most, in one request
STATUS = {"completed": "FINISHED", "interrupted": "KILLED"}
FILES = (*SAVED_FILES, "events.jsonl", "explain.json")
RUN_ID = "lab.run_id"  # the tag by which a resumed run finds its own


class MlflowView:
    """One MLflow run over all attempts at a run of the lab.

    Of each figure only steps after the last one that MLflow has are sent, so that a resumed run
    has each row once, wherever the one before was cut off.

    Raises:
        ImportError: MLflow is not installed.
        MlflowException: its store refuses something.
    """

    def __init__(
        self, config: Config, run_dir: Path, origin: Origin, at: float, *, outputs: Path
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # offline must make no request
        store = mlflow_store(config, outputs)
        if isinstance(store, Path):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        self._metric, self._run_dir = Metric, run_dir
        self._waiting: list[Metric] = []
        self._last_step = 0
        self._client = MlflowClient(store.as_uri() if isinstance(store, Path) else store)
        # Two jobs that begin at once would each make the store and its experiment.
        with _alone(store) if isinstance(store, Path) else nullcontext():
            experiment = self._experiment(config)
            run = self._find(experiment, origin.run_id)
            if run is None:
                tags = _tags(config, run_dir, origin)
                name, began = labels_of(config, run_dir, origin).name, _milliseconds(at)
                run = self._client.create_run(experiment, began, tags, name)
        self._run_id = run.info.run_id
        self._client.update_run(self._run_id, status="RUNNING")
        self._log_parameters(config, known=run.data.params)
        self._sent = {key: self._newest_step(key) for key in run.data.metrics}

    def add(self, row: Mapping[str, Any], at: float) -> None:
        step = row["step"]
        self._last_step = max(self._last_step, step)
        self._put(figures(row), step, at)

    def describe(self, version: Mapping[str, Any]) -> None:
        for key, value in version.items():
            if value is not None:
                self._client.set_tag(self._run_id, key, value)

    def flush(self) -> None:
        sent, self._waiting = self._waiting, []
        for batch in _batches(sent, BATCH):
            self._client.log_batch(self._run_id, metrics=batch)

    def finish(self, summary: Mapping[str, Any], at: float) -> None:
        self._put(summary_figures(summary), self._last_step, at)
        self.flush()
        for key, value in summary.items():
            if isinstance(value, str):
                self._client.set_tag(self._run_id, key, value)
        for name in FILES:
            if (self._run_dir / name).is_file():
                self._client.log_artifact(self._run_id, str(self._run_dir / name))
        status = STATUS.get(summary.get("state", ""), "FAILED")
        self._client.set_terminated(self._run_id, status, _milliseconds(at))

    def _put(self, values: Mapping[str, float], step: int, at: float) -> None:
        for key, value in values.items():
            if step > self._sent.get(key, -1):
                self._waiting.append(self._metric(key, float(value), _milliseconds(at), step))
        if len(self._waiting) >= BATCH:
            self.flush()

    def _experiment(self, config: Config) -> str:
        name = config.tracker.project or "mlx-memory-lab"
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name)

    def _find(self, experiment: str, run_id: str) -> Any:
        found = self._client.search_runs([experiment], f"tags.`{RUN_ID}` = '{run_id}'")
        return found[0] if found else None

    def _newest_step(self, key: str) -> int:
        return max(m.step for m in self._client.get_metric_history(self._run_id, key))

    def _log_parameters(self, config: Config, known: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        new = [Param(k, str(v)) for k, v in parameters(config).items() if k not in known]
        for batch in _batches(new, PARAMETERS):
            self._client.log_batch(self._run_id, params=batch)


def _tags(config: Config, run_dir: Path, origin: Origin) -> dict[str, str]:
    """What W&B shows beside a run's settings, as MLflow's tags."""
    labels = labels_of(config, run_dir, origin)
    groups = to_dict(config)
    beside = {k: v for k, v in labels.config.items() if k not in groups}
    own = {
        RUN_ID: origin.run_id,
        "group": origin.group,
        "job_type": labels.job_type,
        "tags": ", ".join(labels.tags),
        "mlflow.note.content": config.tracker.notes,
        "mlflow.user": "",  # else MLflow asks the system for it
    }
    return {key: str(value) for key, value in (beside | own).items() if value is not None}


@contextmanager
def _alone(store: Path) -> Iterator[None]:
    store.parent.mkdir(parents=True, exist_ok=True)
    with store.with_name(f".{store.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _milliseconds(at: float) -> int:
    return round(at * 1000)
