"""Supervise one attempt at a run: start workers one after another, and store their records."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.config.keys import Config
from lab.config.schema import ConfigError
from lab.machine import process
from lab.protocol import Command, Outcome, RecordKind
from lab.records.facts import RunFacts
from lab.records.files import RunFiles
from lab.records.origin import Origin, check_environment
from lab.records.rows import metric_gb
from lab.supervise.budget import Budget
from lab.supervise.finalize import finalize
from lab.supervise.identity import lab_identity
from lab.supervise.recorder import RunRecorder
from lab.supervise.replay import Remedies, loss_rtol, repeated_events
from lab.supervise.signals import StopSignals
from lab.supervise.verdict import RestartPolicy, Result, error_text, verdict
from lab.supervise.walls import WallPolicy, recognise
from lab.supervise.worker_process import Record, WorkerExit, WorkerProcess

if TYPE_CHECKING:
    from lab.tracking.trackers import Tracker

log = logging.getLogger("lab")

STOP_GRACE_S = 2.0  # for a worker that starts when the run is stopped to do its step and save


class RunSupervisor:
    """One attempt at a run, from its start or from where an earlier attempt was cut off.

    Arguments:
        overrides: what the user changed, for the tracker.
        begun_with: the environment of a run that this one reproduces; empty for any other.
        remedies: those that it took, to be taken again.

    Raises:
        ConfigError: the run's files hold a line that this lab did not write.
        MetricsLost: they cannot be opened or written.
        RunBusy: another process has this run.
    """

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        origin: Origin,
        *,
        overrides: list[str] | None = None,
        begun_with: Mapping[str, Any] | None = None,
        remedies: Remedies | None = None,
    ) -> None:
        self._config, self._run_dir, self._origin = config, run_dir, origin
        self._overrides = overrides or []
        files = RunFiles(run_dir)  # locks them: from here on nobody else adds an event
        self._recorder = RunRecorder(files, repeated_events(files.earlier))
        self._is_resumed = bool(files.earlier)
        self._remedies = Remedies.of_reproduction(files.earlier[0]) if files.earlier else remedies
        workers = [e for e in files.earlier if e["event"] == "worker_started"]
        # Not their number: one that died before it was ready had a generation, and no event.
        generations = (e.get("generation") for e in workers)
        self._generation = 1 + max((g for g in generations if type(g) is int), default=-1)
        self._first_environment = workers[0].get("environment", {}) if workers else begun_with or {}
        without_checkpoints = "" if config.checkpoint.enabled else "checkpoint.enabled=false"
        self._never_reloads = without_checkpoints if config.trainer == "lab" else "trainer=mlx_lm"
        self._budget = Budget(config.memory.budget_gb, can_reload=not self._never_reloads)
        self._walls = WallPolicy(os.environ)
        self._standby: WorkerProcess | None = None
        self._environment: dict[str, Any] = {}  # of this attempt's first worker, once it is ready
        self._start_step = 0
        self._error: Record = {}
        self._ended: Record = {}

    def run(self) -> Result:
        """Start worker after worker until the run ends.

        Raises:
            ConfigError: the worker found the config impossible before its first step.
            MetricsLost: a file of the run cannot be written any more.
        """
        process.keep_awake()
        try:
            with StopSignals() as signals:
                end = self._run_workers(signals)
                return self._finish(end, signals.exit_code)
        finally:
            self._discard_standby()
            self._recorder.close_trackers({"state": "failed"}, 1)
            self._recorder.files.close()

    def _run_workers(self, signals: StopSignals) -> WorkerExit:
        """Start workers until one ends for good; after a death the last checkpoint is replayed."""
        restarts = RestartPolicy(self._config.worker.max_restarts)
        if not self._is_resumed:
            replays = self._remedies.event() if self._remedies else {}
            self._recorder.event(
                "run_started", 0, name=self._config.name, **self._origin.event(), **replays
            )
        while True:
            end = self._run_worker(signals)
            if self._budget.exhausted:
                return end
            step = self._recorder.last_step
            end = restarts.judge(
                end,
                start_step=self._start_step,
                last_step=step,
                stop_requested=signals.received,
            )
            if end.outcome is Outcome.BAD_CONFIG:
                self._refuse_config()
            if end.outcome is Outcome.FAILED:
                text = self._error.get("text")
                self._recorder.event(
                    "worker_died", step, cause=end.cause, error=text, stderr=end.stderr or None
                )
                log.debug("%s", self._error.get("trace", ""))
            is_stuck = end.outcome is Outcome.FAILED and self._is_at_a_wall(end)
            if signals.received or is_stuck or not restarts.restarts_after(end):
                return end
            self._generation += 1
            self._budget.next_worker()

    def _refuse_config(self) -> None:
        """Raise what the first worker found; a later one's finding is the error of the run."""
        error = ConfigError(*(self._error[key] for key in ("key", "value", "allowed")))
        if not self._environment:
            raise error
        self._error = {"text": str(error)}

    def _is_at_a_wall(self, end: WorkerExit) -> bool:
        """Whether the worker died at a limit of Metal that the next one would only meet again."""
        text = self._error.get("text", "")
        wall = recognise(f"{text}\n{end.stderr}")
        if wall is None:
            return False
        told = f"{wall.name}; what helps: {wall.remedy}"
        self._error = {**self._error, "text": f"{told} ({text})"}
        step = self._recorder.last_step
        if not self._walls.finds_a_way(wall, start_step=self._start_step, last_step=step):
            return True
        log.warning("%s; another worker tries to get past it", told)
        self._discard_standby()  # it was started without the variables that may help
        return False

    def _finish(self, end: WorkerExit, signal_exit_code: int | None) -> Result:
        exhausted = self._budget.exhausted
        exit_code, state = verdict(
            end.outcome,
            signal_exit_code=signal_exit_code,
            over_budget=exhausted,
            replay_differs=self._recorder.replay_differs,
        )
        error = error_text(
            end.outcome,
            self._error,
            over_budget_gb=self._config.memory.budget_gb if exhausted else None,
            never_reloads=self._never_reloads,
            cause=end.cause,
        )
        finalize(
            self._config,
            self._run_dir,
            self._recorder,
            exit_code=exit_code,
            state=state,
            environment=self._environment,
            ended=self._ended,
            error=error,
        )
        return Result(exit_code)

    # --- One worker -----------------------------------------------------------------------------

    def _run_worker(self, signals: StopSignals) -> WorkerExit:
        self._error = {}
        try:
            worker, self._standby = self._standby or self._start_worker(self._generation), None
        except OSError as error:  # no process or no memory left for one: as if it had died
            return WorkerExit(Outcome.FAILED, f"it could not be started: {error}")
        signals.forward_to(worker)
        try:
            if self._remedies:
                _replay(self._remedies, worker)
            worker.send(Command.GO, self._recorder.last_step)
            lab_identity()  # asks git once, while the first worker imports
            limits = self._config.worker
            for record in worker.records(limits.timeout_s, limits.start_timeout_s):
                if not worker.is_ready and time.monotonic() - signals.received_at > STOP_GRACE_S:
                    worker.kill()  # it downloads, indexes or loads: there is nothing to save
                if record is not None:
                    self._handle(record, worker)
                elif self._knows_device and self._budget_metric == "process":
                    self._keep_budget(worker, worker.memory_gb(), after_step=False)
            end = worker.close()
            if signals.killed_by and end.outcome is Outcome.FAILED:
                end = replace(end, cause=f"ended at once by the second {signals.killed_by}")
            stopped = signals.received and not worker.is_ready and end.outcome is Outcome.FAILED
            return WorkerExit(Outcome.STOPPED) if stopped else end
        except BaseException:
            _discard(worker)
            raise
        finally:
            signals.forward_to(None)

    def _start_standby(self) -> None:
        """Start the next worker while this one saves; if that fails, it is started after it."""
        if self._standby is None:
            try:
                self._standby = self._start_worker(self._generation + 1)
            except OSError as error:
                log.warning("the next worker could not be started yet: %s", error)

    def _discard_standby(self) -> None:
        if self._standby is not None:
            _discard(self._standby)
            self._standby = None

    def _start_worker(self, generation: int) -> WorkerProcess:
        return WorkerProcess(
            self._config,
            self._run_dir / "checkpoints",
            generation=generation,
            started=self._recorder.started,
            environment=self._walls.environment,
            is_first=not self._environment,
        )

    def _handle(self, record: Record, worker: WorkerProcess) -> None:
        match record.pop("kind"):
            case RecordKind.ROW:
                self._recorder.row(record)
                memory_gb = metric_gb(record, self._budget_metric)
                self._keep_budget(worker, memory_gb, after_step=True)
            case RecordKind.EVENT:
                self._recorder.event(**record)
            case RecordKind.COMMIT:
                self._recorder.files.fsync()
                worker.send(Command.COMMITTED, record["step"])
            case RecordKind.LEAVING:
                self._start_standby()
            case RecordKind.EXPLAIN | RecordKind.PROFILE as kind:
                self._recorder.finding(kind, record)
            case RecordKind.PROGRESS | RecordKind.WARNING as kind:
                level = logging.INFO if kind == RecordKind.PROGRESS else logging.WARNING
                log.log(level, "%s", record["text"])
            case RecordKind.READY:
                self._handle_ready(record)
            case RecordKind.ERROR | RecordKind.BAD_CONFIG:
                self._error = record
            case RecordKind.ENDED:
                self._ended = record

    def _handle_ready(self, record: Record) -> None:
        """Take the first worker's environment; from then on the trackers are open.

        Raises:
            ConfigError: data or model are not those that the run was begun with.
        """
        environment, step = {**lab_identity(), **record["environment"]}, record["step"]
        is_first = not self._environment
        if is_first:
            for line in check_environment(self._first_environment, environment):
                log.warning("%s", line)
            self._environment = environment
            self._recorder.loss_rtol = loss_rtol(self._config, str(environment.get("device")))
            self._recorder.trackers = self._open_trackers(RunFacts.of(record["facts"]))
            for note in record["notes"]:
                log.info("%s", note)
            if self._is_resumed:
                self._recorder.event("resumed", step)
        self._start_step = step
        self._recorder.event(
            "worker_started",
            step,
            pid=record["pid"],
            generation=self._generation,
            **({"environment": environment, "facts": record["facts"]} if is_first else {}),
        )

    def _open_trackers(self, facts: RunFacts) -> list[Tracker]:
        from lab.supervise.introduce import open_introduced

        return open_introduced(
            self._config,
            self._run_dir,
            facts,
            self._environment,
            on_cuda=self._budget_metric == "mlx",
            origin=self._origin,
            overrides=self._overrides,
        )

    @property
    def _knows_device(self) -> bool:
        """Whether a worker has said what it trains on; ``mlx`` may mean CUDA, as ``auto`` does."""
        return bool(self._environment) or self._config.reload.metric != "mlx"

    @property
    def _budget_metric(self) -> str:
        """On CUDA the process's own memory says nothing about the device's."""
        on_cuda = sys.platform == "linux" and "gpu" in self._environment.get("device", "")
        return "mlx" if on_cuda else "process"

    def _keep_budget(
        self, worker: WorkerProcess, memory_gb: float | None, *, after_step: bool
    ) -> None:
        """Ask the worker to reload or stop, or kill it, where it takes more than its budget."""
        if memory_gb is None:
            return
        action = self._budget.judge(memory_gb, now=time.monotonic(), after_step=after_step)
        if action is None:
            return
        limit = self._config.memory.budget_gb
        self._recorder.event(
            "budget_exceeded",
            self._recorder.last_step,
            memory_gb=memory_gb,
            budget_gb=limit,
            action=action,
        )
        if action == "kill":
            worker.kill(f"{memory_gb:.3f} GB are far above memory.budget_gb={limit:g}")
        else:
            worker.send(Command(action))


def _replay(remedies: Remedies, worker: WorkerProcess) -> None:
    worker.send(Command.REPLAY, remedies.until)
    for step, rung in remedies.by_step.items():
        worker.send(Command.REMEDY, step, rung)


def _discard(worker: WorkerProcess) -> None:
    worker.kill()
    worker.close()
