"""One supervised go at a run: workers, their records, and what is left when it ends."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.config.keys import Config
from lab.config.schema import ConfigError
from lab.config.units import GB
from lab.machine.interpreter import environment_with_lab
from lab.records.files import RunFiles
from lab.records.origin import Origin, check_environment
from lab.records.rows import metric_gb, read_jsonl
from lab.records.summary import SUMMARY_VERSION, summarise
from lab.supervise.budget import Budget
from lab.supervise.signals import Signals
from lab.supervise.worker_process import Exit, Record, WorkerProcess
from lab.tracking.folders import outputs_of, wandb_folder

if TYPE_CHECKING:
    from lab.tracking.trackers import Tracker

log = logging.getLogger("lab")

REBUILD_SECONDS = 60.0
LOOSE = 0.02  # how far a replayed loss may lie from the first with train.deterministic=false

# What a replayed step tells again.
REPEATED = ("reload", "reload_ineffective", "reload_skipped", "cache_clear", "nonfinite")


@dataclass(frozen=True)
class Result:
    """What a run leaves for whoever started it.

    Attributes:
        exit_code: 0 done, 1 failed, 2 bad configuration, 3 memory budget exceeded, 130 or 143
            interrupted and resumable.
    """

    exit_code: int


def cache_folder() -> Path:
    """Where the data index is kept between runs: the user's cache, or ``LAB_CACHE_DIR``."""
    given = os.environ.get("LAB_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base) / "mlx-memory-lab"


class Sitting:
    """One supervised go at a run: from its start, or from where an earlier one was cut off.

    Arguments:
        begun_with: the environment of a run that this one reproduces; empty for any other.

    Raises:
        MetricsLost: the run's files cannot be opened or written.
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
    ) -> None:
        self._config, self._run_dir, self._origin = config, run_dir, origin
        self._overrides = overrides or []
        self._files = RunFiles(run_dir)
        self._started = time.monotonic() - self._files.last_time
        self._standby: WorkerProcess | None = None
        self._trackers: list[Tracker] = []
        self._environment: dict[str, Any] = {}
        self._ended: Record = {}
        self._error: Record = {}
        self._mismatch: int | None = None
        self._start_step = 0
        can_reload = config.checkpoint.enabled and config.trainer == "lab"
        self._budget = Budget(config.memory.budget_gb, can_reload=can_reload)
        earlier = list(read_jsonl(run_dir / "events.jsonl"))
        self._told = {(e["event"], e["step"]) for e in earlier if e["event"] in REPEATED}
        workers = [e for e in earlier if e["event"] == "worker_started"]
        self._generation = len(workers)
        self._first_environment = workers[0].get("environment", {}) if workers else begun_with or {}
        self._is_resumed = bool(earlier)

    def run(self) -> Result:
        """Worker after worker, until the run has ended one way or another.

        Raises:
            ConfigError: the worker found the config impossible before its first step.
            MetricsLost: a file of the run cannot be written any more.
        """
        try:
            with Signals() as signals:
                return self._finish(self._train(signals), signals.exit_code)
        finally:
            if self._standby is not None:
                _end(self._standby)
            self._close_trackers({"state": "failed"}, 1)
            self._files.close()

    def _train(self, signals: Signals) -> Exit:
        """Start workers until one ends for good; a death is replayed from the last checkpoint."""
        deaths, died_at, before = 0, -1, (-1, -1)
        if not self._is_resumed:
            self._event("run_started", 0, name=self._config.name, **self._origin.event())
        while True:
            end = self._explain(self._one_worker(signals), asked=signals.exit_code is not None)
            step = self._files.last_step
            progress = (self._start_step, step)
            if end.outcome == "reload" and progress == before:
                end = Exit("died", "it left for a reload that led to the same step again")
            before = progress
            if end.outcome == "died":
                deaths = 1 if step > died_at else deaths + 1
                died_at = max(died_at, step)
                self._event("worker_died", step, cause=end.cause, error=self._error.get("text"))
                log.debug("%s", self._error.get("trace", ""))
            again = end.outcome == "reload" or (
                end.outcome == "died" and deaths <= self._config.worker.max_restarts
            )
            if not again or signals.exit_code is not None:
                return end
            self._generation += 1
            self._budget.next_worker()

    def _explain(self, end: Exit, *, asked: bool) -> Exit:
        """What a worker's end means, where its exit code alone does not say it.

        Raises:
            ConfigError: the worker found the config impossible before anything had happened.
        """
        if self._budget.exhausted and end.outcome != "finished":
            limit = self._config.memory.budget_gb
            self._error = {"text": f"memory.budget_gb={limit:g} is exceeded after a reload too"}
            return Exit("over_budget", end.cause)
        if end.outcome == "stopped" and not asked:
            return Exit("died", "it stopped without being asked")
        if end.outcome == "bad_config":
            error = ConfigError(*(self._error[k] for k in ("key", "value", "allowed")))
            if not self._environment:
                raise error
            self._error = {"text": str(error)}
        if end.outcome == "unsaved":
            text = "the last checkpoint could not be written: make room, then resume the run"
            self._error = {"text": text}
        if end.outcome == "nonfinite":
            step = self._files.last_step
            self._error = {"text": f"the loss is no longer finite at step {step}"}
        return end

    def _one_worker(self, signals: Signals) -> Exit:
        self._error = {}
        worker, self._standby = self._standby or self._start_worker(self._generation), None
        signals.watch(worker)
        try:
            worker.tell("go", self._files.last_step)
            for record in worker.records(self._config.worker.timeout_s):
                self._take(record, worker)
            return worker.close()
        except BaseException:
            _end(worker)
            raise
        finally:
            signals.watch(None)

    def _start_worker(self, generation: int) -> WorkerProcess:
        return WorkerProcess(
            self._config,
            self._run_dir / "checkpoints",
            cache=cache_folder(),
            generation=generation,
            started=self._started,
        )

    def _take(self, record: Record, worker: WorkerProcess) -> None:
        match record.pop("kind"):
            case "row":
                self._row(record)
                self._watch(worker, metric_gb(record, self._budget_metric), after_step=True)
            case "silence" if self._budget_metric == "process":
                self._watch(worker, worker.memory_gb(), after_step=False)
            case "event":
                self._event(**record)
            case "commit":
                self._files.fsync()
                worker.tell("committed", record["step"])
            case "leaving":
                self._standby = self._standby or self._start_worker(self._generation + 1)
            case "warning":
                log.warning("%s", record["text"])
            case "ready":
                self._ready(record)
            case "error" | "bad_config":
                self._error = record
            case "ended":
                self._ended = record

    def _ready(self, record: Record) -> None:
        environment = record["environment"]
        is_first = not self._environment
        if is_first:
            for line in check_environment(self._first_environment, environment):
                log.warning("%s", line)
            for note in record["notes"]:
                log.info("%s", note)
            self._environment = environment
            self._open_trackers()
            if self._is_resumed:
                self._event("resumed", record["step"])
        self._start_step = record["step"]
        self._event(
            "worker_started",
            record["step"],
            pid=record["pid"],
            generation=self._generation,
            **({"environment": environment} if is_first else {}),
        )

    def _open_trackers(self) -> None:
        from lab.tracking.trackers import open_trackers

        self._trackers = open_trackers(
            self._config,
            outputs=outputs_of(self._run_dir),
            run_dir=self._run_dir,
            origin=self._origin,
            overrides=self._overrides,
        )

    @property
    def _budget_metric(self) -> str:
        """On CUDA the process's own memory says nothing about the device's."""
        on_cuda = sys.platform == "linux" and "gpu" in self._environment.get("device", "")
        return "mlx" if on_cuda else "process"

    def _watch(self, worker: WorkerProcess, memory_gb: float | None, *, after_step: bool) -> None:
        """Hold the worker to its budget."""
        if memory_gb is None:
            return
        action = self._budget.judge(memory_gb, now=time.monotonic(), after_step=after_step)
        if action is None:
            return
        limit = self._config.memory.budget_gb
        self._event(
            "budget_exceeded",
            self._files.last_step,
            memory_gb=memory_gb,
            budget_gb=limit,
            action=action,
        )
        if action == "kill":
            worker.kill(f"{memory_gb:.2f} GB are far above memory.budget_gb={limit:g}")
        else:
            worker.tell(action)

    def _row(self, row: Record) -> None:
        stored = self._files.row(row)
        if stored.is_new:
            for tracker in self._trackers:
                tracker.log(row)
        elif not self._same_loss(stored.loss, row["loss"]):
            step, found = row["step"], row["loss"]
            self._mismatch = self._mismatch or step
            self._event("replay_mismatch", step, expected=stored.loss, found=found)

    def _same_loss(self, first: float | None, replayed: float | None) -> bool:
        """Bit for bit, unless the run was allowed not to be repeatable."""
        if self._is_repeatable or first is None or replayed is None:
            return first == replayed
        return math.isclose(first, replayed, rel_tol=LOOSE)

    @property
    def _is_repeatable(self) -> bool:
        config, device = self._config, str(self._environment.get("device"))
        # mlx-lm trains MLX's own embeddings, whose gradient differs each time on a GPU.
        varies = config.trainer == "mlx_lm" and config.adapter.kind == "full" and "gpu" in device
        return config.train.deterministic and not varies

    def _event(self, event: str, step: int, **fields: object) -> None:
        if event in REPEATED:
            if (event, step) in self._told:
                return
            self._told.add((event, step))
        row = {"event": event, "step": step, "time": time.monotonic() - self._started, **fields}
        self._files.event(row)
        for tracker in self._trackers:
            tracker.event(row)

    def _finish(self, end: Exit, signalled: int | None) -> Result:
        exit_code, state = _verdict(end, signalled, self._mismatch)
        self._event("run_finished", self._files.last_step, state=state)
        summary = {
            "version": SUMMARY_VERSION,
            "state": state,
            **summarise(self._run_dir),
            "weights_sha256": self._ended.get("weights_sha256"),
            "environment": self._environment | _parent_environment(),
        }
        problems = self._close_trackers(summary, exit_code)
        self._files.write_summary(summary)  # last: a run cut off before it goes on, W&B's with it
        self._files.close()
        if problems and self._config.tracker.mode == "offline":
            problems += self._rebuild_wandb()
        self._tell(summary, problems)
        return Result(exit_code)

    def _close_trackers(self, summary: dict[str, Any], exit_code: int) -> list[str]:
        trackers, self._trackers = self._trackers, []
        return [line for tracker in trackers for line in tracker.close(summary, exit_code)]

    def _rebuild_wandb(self) -> list[str]:
        """Make the offline W&B run again from the files, in a process that W&B did not fail in."""
        command = [sys.executable, "-m", "lab.cli", "sync", "--offline", str(self._run_dir)]
        try:
            subprocess.run(
                command,
                check=True,
                capture_output=True,
                timeout=REBUILD_SECONDS,
                env=environment_with_lab(),
            )
        except (OSError, subprocess.SubprocessError):
            return [f"its offline run is not whole; later: lab sync {self._run_dir}"]
        return ["its offline run was made again from the files, and is whole"]

    def _tell(self, summary: dict[str, Any], problems: list[str]) -> None:
        from lab.plots.memory_plot import plot_run
        from lab.tracking.closing import format_summary

        for line in (*self._data_notes(), *problems):
            log.warning("%s", line)
        tracked = self._config.tracker.mode != "none"
        text = format_summary(
            summary,
            self._run_dir,
            wandb_dir=wandb_folder(self._config, outputs_of(self._run_dir)) if tracked else None,
            error=self._error.get("text", ""),
        )
        log.info("%s", text)
        if self._files.last_step:
            try:
                plot_run(self._run_dir)
            except OSError as error:
                log.warning("memory.png was not drawn: %s", error)

    def _data_notes(self) -> list[str]:
        """Samples that did not go in whole, said once at the end."""
        length = self._config.train.max_seq_length
        says = {
            "truncated": f"samples were longer than train.max_seq_length={length} and were cut",
            "empty": "samples had no completion token left and taught nothing",
        }
        return [f"{self._ended[k]} {text}" for k, text in says.items() if self._ended.get(k)]


def _end(worker: WorkerProcess) -> None:
    worker.kill()
    worker.close()


def _verdict(end: Exit, signalled: int | None, mismatch: int | None) -> tuple[int, str]:
    if signalled is not None and end.outcome != "finished":
        return signalled, "interrupted"
    if end.outcome == "over_budget":
        return 3, "budget_exceeded"
    if end.outcome == "finished" and mismatch is None:
        return 0, "completed"
    return 1, "failed"


def _parent_environment() -> dict[str, object]:
    from importlib.metadata import version

    from lab.machine.probe import probe_machine

    here = Path(__file__).parent
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    return {
        "hydra": version("hydra-core"),
        "machine_memory_gb": probe_machine().memory_bytes / GB,
        "git_commit": git.stdout.strip() or None,
    }
