"""One run, top to bottom: a composed config in, a folder of files and an exit code out."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.analysis.summary import VERSION, summarise
from lab.config import Config, ConfigError, dump
from lab.supervisor import Exit, Record, Signals, WorkerProcess
from lab.tracking.files import MetricsLost, RunFiles
from lab.tracking.rows import read_jsonl

if TYPE_CHECKING:
    from lab.tracking import Tracker

log = logging.getLogger("lab")

OUTPUTS = Path("outputs")
LOOSE = 0.02  # how far a replayed loss may lie from the first with train.deterministic=false


@dataclass(frozen=True)
class Result:
    """What a run leaves for whoever started it.

    Attributes:
        exit_code: 0 done, 1 failed, 2 bad configuration, 130 or 143 interrupted and resumable.
        objective: what a sweeper minimises; None if the run did not complete.
    """

    exit_code: int
    objective: float | None = None


def cache_folder() -> Path:
    """Where the data index is kept between runs: the user's cache, or ``LAB_CACHE_DIR``."""
    given = os.environ.get("LAB_CACHE_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(base) / "mlx-memory-lab"


def run(
    config: Config,
    run_dir: Path,
    *,
    overrides: list[str],
    warnings: list[str],
    group: str | None = None,
) -> Result:
    """Run one experiment in ``run_dir``.

    Arguments:
        run_dir: empty or new, but for what Hydra puts there.
        overrides: what the user changed, for the tracker.
        warnings: one line each, found while composing.
        group: the sweep that this run belongs to.
    """
    if (run_dir / "config.yaml").exists():
        log.error("%s already holds a run; choose another folder or `lab resume` it", run_dir)
        return Result(2)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text(dump(config))
    for warning in warnings:
        log.warning("%s", warning)
    try:
        return _Sitting(config, run_dir, overrides=overrides, group=group).run()
    except ConfigError as error:
        log.error("%s", error)  # noqa: TRY400 - a user's mistake has no traceback
        _remove_run(run_dir)
        return Result(2)


def resume(run_dir: Path) -> Result:
    """Go on with a run that was cut off, from its last good checkpoint.

    Raises:
        ConfigError: the folder is not a run's, or the run is already complete.
    """
    config = Config.load(run_dir / "config.yaml")
    summary = read_summary(run_dir)
    if summary.get("state") == "completed":
        raise ConfigError("run", run_dir, "is complete; there is nothing to resume")
    return _Sitting(config, run_dir, overrides=[], group=None).run()


def read_summary(run_dir: Path) -> dict[str, Any]:
    """The content of ``summary.json``; empty where a run has not ended."""
    path = run_dir / "summary.json"
    return json.loads(path.read_text()) if path.is_file() else {}


class _Sitting:
    """One supervised go at a run: from its start, or from where an earlier one was cut off."""

    def __init__(
        self, config: Config, run_dir: Path, *, overrides: list[str], group: str | None
    ) -> None:
        self._config, self._run_dir = config, run_dir
        self._overrides, self._group = overrides, group
        self._files = RunFiles(run_dir)
        self._trackers: list[Tracker] = []
        self._environment: dict[str, Any] = {}
        self._ended: Record = {}
        self._error: Record = {}
        self._mismatch: int | None = None
        earlier = list(read_jsonl(run_dir / "events.jsonl"))
        self._started = time.monotonic() - max((e["time"] for e in earlier), default=0.0)
        self._generation = sum(e["event"] == "worker_started" for e in earlier)

    def run(self) -> Result:
        """Worker after worker, until the run has ended one way or another.

        Raises:
            ConfigError: the worker found the config impossible before the first step.
        """
        try:
            with Signals() as signals:
                return self._finish(self._train(signals), signals.exit_code)
        except MetricsLost as error:
            log.error("%s: the run stops rather than lose rows", error)  # noqa: TRY400
            self._close_trackers({"state": "failed"}, 1)
            return Result(1)
        except BaseException:
            self._close_trackers({"state": "failed"}, 1)
            raise

    def _train(self, signals: Signals) -> Exit:
        """Start workers until one ends for good; a death is replayed from the last checkpoint."""
        deaths, died_at = 0, -1
        if self._generation:
            self._event("resumed", self._files.last_step)
        else:
            self._event("run_started", 0, name=self._config.name)
        while True:
            end = self._one_worker(signals)
            step = self._files.last_step
            if end.outcome == "stopped" and signals.exit_code is None:
                end = Exit("died", "it stopped without being asked")
            if end.outcome == "bad_config":
                error = ConfigError(*(self._error[k] for k in ("key", "value", "allowed")))
                if step == 0:
                    raise error
                self._error = {"text": str(error)}
            if end.outcome == "nonfinite":
                self._error = {"text": f"the loss is no longer finite at step {step}"}
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

    def _one_worker(self, signals: Signals) -> Exit:
        self._error = {}
        worker = WorkerProcess(
            self._config,
            self._run_dir / "config.yaml",
            cache=cache_folder(),
            generation=self._generation,
            resume_at_most=self._files.last_step,
            started=self._started,
        )
        signals.worker = worker
        try:
            for record in worker.records(self._config.worker.timeout_s):
                self._take(record, worker)
            return worker.close()
        except BaseException:
            worker.kill()
            worker.close()
            raise
        finally:
            signals.worker = None

    def _take(self, record: Record, worker: WorkerProcess) -> None:
        match record.pop("kind"):
            case "row":
                self._row(record)
            case "event":
                self._event(**record)
            case "commit":
                self._files.fsync()
                worker.tell("committed", record["step"])
            case "warning":
                log.warning("%s", record["text"])
            case "ready":
                self._ready(record)
            case "error" | "bad_config":
                self._error = record
            case "ended":
                self._ended = record

    def _ready(self, record: Record) -> None:
        if not self._environment:
            from lab.tracking import open_trackers

            self._environment = record["environment"]
            for note in record["notes"]:
                log.info("%s", note)
            self._trackers = open_trackers(
                self._config,
                outputs=OUTPUTS,
                run_dir=self._run_dir,
                group=self._group,
                overrides=self._overrides,
            )
        self._event(
            "worker_started", record["step"], pid=record["pid"], generation=self._generation
        )

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
        if self._config.train.deterministic or first is None or replayed is None:
            return first == replayed
        return math.isclose(first, replayed, rel_tol=LOOSE)

    def _event(self, event: str, step: int, **fields: object) -> None:
        row = {"event": event, "step": step, "time": time.monotonic() - self._started, **fields}
        self._files.event(row)
        for tracker in self._trackers:
            tracker.event(row)

    def _finish(self, end: Exit, signalled: int | None) -> Result:
        exit_code, state = _verdict(end, signalled, self._mismatch)
        self._event("run_finished", self._files.last_step, state=state)
        summary = {
            "version": VERSION,
            "state": state,
            **summarise(self._run_dir),
            "weights_sha256": self._ended.get("weights_sha256"),
            "environment": self._environment | _parent_environment(),
        }
        self._files.write_summary(summary)
        problems = self._close_trackers(summary, exit_code)
        self._files.close()
        self._tell(summary, problems)
        return Result(exit_code, _objective(self._config, summary) if exit_code == 0 else None)

    def _close_trackers(self, summary: dict[str, Any], exit_code: int) -> list[str]:
        trackers, self._trackers = self._trackers, []
        return [line for tracker in trackers for line in tracker.close(summary, exit_code)]

    def _tell(self, summary: dict[str, Any], problems: list[str]) -> None:
        from lab.analysis.plot import plot_run
        from lab.tracking.closing import format_summary
        from lab.tracking.wandb import wandb_folder

        for line in (*self._data_notes(), *problems):
            log.warning("%s", line)
        tracked = self._config.tracker.mode != "none"
        text = format_summary(
            summary,
            self._run_dir,
            wandb_dir=wandb_folder(self._config, OUTPUTS) if tracked else None,
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


def _objective(config: Config, summary: dict[str, Any]) -> float | None:
    """The figure of the summary that a sweeper is to make best."""
    return summary[config.objective]


def _verdict(end: Exit, signalled: int | None, mismatch: int | None) -> tuple[int, str]:
    if signalled is not None and end.outcome != "finished":
        return signalled, "interrupted"
    if end.outcome == "finished" and mismatch is None:
        return 0, "completed"
    return 1, "failed"


def _parent_environment() -> dict[str, object]:
    from importlib.metadata import version

    from lab.compose import probe_machine

    here = Path(__file__).parent
    git = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    return {
        "hydra": version("hydra-core"),
        "machine_memory_gb": probe_machine().memory_bytes / 2**30,
        "git_commit": git.stdout.strip() or None,
    }


def _remove_run(run_dir: Path) -> None:
    """Leave nothing of a run that could not start: its folder, and parents that are empty now."""
    shutil.rmtree(run_dir, ignore_errors=True)
    for parent in list(run_dir.parents)[:3]:
        try:
            parent.rmdir()
        except OSError:
            return
