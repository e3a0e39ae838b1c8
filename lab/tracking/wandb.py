"""Weights & Biases on a thread of its own: slow, hanging or failing, it never blocks training."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

from lab.config.keys import Config
from lab.records import objective
from lab.records.origin import Origin
from lab.records.rows import finite, read_jsonl
from lab.tracking import service
from lab.tracking.folders import wandb_folder
from lab.tracking.labels import labels_of
from lab.tracking.logged import (
    define_metrics,
    lab_version,
    log_row,
    position,
    reload_row,
    save_files,
    set_config,
)

log = logging.getLogger(__name__)

PROJECT = "mlx-memory-lab"

# An upload that needs longer is left to `wandb sync`: a sweep would wait so long at each job.
FINISH_SECONDS = 15.0

# For the look at W&B's credentials, and the exit status of one that finds none.
LOOK_SECONDS, NO_KEY = 60.0, 7

# About 20 MB of rows: a W&B that hangs must not fill the machine whose memory is measured.
BACKLOG_ROWS = 10_000

# W&B's default of 15 s would lose that much when the machine goes down.
FLUSH_SECONDS = 0.5


class _Version(NamedTuple):
    config: dict[str, Any]


class _Finish(NamedTuple):
    summary: dict[str, Any]
    exit_code: int


class WandbTracker:
    """Log a run to W&B as one complete W&B run, also after a resume.

    W&B takes about half a second to start; rows wait in a queue meanwhile. Rows and reloads that
    the run's folder already holds are logged first, because an offline run cannot be continued: a
    resumed run replaces the offline run that was cut off. Online, only rows that the server does
    not have yet are sent.

    Arguments:
        config: its ``tracker.mode`` is ``offline`` or ``online``.
        outputs: W&B writes into ``outputs/wandb``, unless ``WANDB_DIR`` is set.
        origin: its run id is the W&B run's too, over resumes.
        overrides: from the command line; without a ``name=`` among them ``WANDB_NAME`` wins.
        finish_seconds: how long ``close`` waits for W&B.

    Attributes:
        run_id: W&B's and the run's own.
        url: its address; empty before it has begun, and offline.
    """

    def __init__(
        self,
        config: Config,
        *,
        outputs: Path,
        run_dir: Path,
        origin: Origin,
        overrides: list[str] | None = None,
        finish_seconds: float = FINISH_SECONDS,
    ) -> None:
        self._config = config
        self._outputs = outputs.resolve()
        self._origin = origin
        self.run_id, self.url = origin.run_id, ""
        self._named = any(text.startswith("name=") for text in overrides or [])
        self._finish_seconds = finish_seconds
        self._run_dir, self._metric = run_dir, config.reload.metric
        self._past = [(path, _size(path)) for path in _files(run_dir)]
        self._queue: SimpleQueue[dict[str, Any] | _Version | _Finish] = SimpleQueue()
        self._lost_rows = 0
        self._problem = ""
        self._thread = Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def log(self, row: Mapping[str, object]) -> None:
        if self._problem:
            return
        if self._queue.qsize() >= BACKLOG_ROWS:
            self._lost_rows += 1
            return
        self._queue.put(dict(row))

    def replay(self, row: Mapping[str, object], last_step: int) -> None:
        """Do nothing: W&B has the row of the step's first execution."""

    def event(self, event: Mapping[str, object]) -> None:
        match event.get("event"):
            case "reload" | "remedy":
                self.log(reload_row(event, self._metric))
            case "worker_started" if version := lab_version(event):
                self._queue.put(_Version(version))

    def close(self, summary: Mapping[str, object], exit_code: int) -> list[str]:
        """Finish the W&B run; return its problems. Waits at most ``finish_seconds``."""
        self._queue.put(_Finish(dict(summary), exit_code))
        self._thread.join(self._finish_seconds)
        problems = [f"W&B {text}; metrics.jsonl has every row" for text in self._problems()]
        if problems:
            service.bound_exit()
        return problems

    def _problems(self) -> Iterator[str]:
        if self._problem:
            yield f"failed: {self._problem}"
        elif self._thread.is_alive():
            yield f"did not finish within {self._finish_seconds:g} s"
        elif self._lost_rows:
            yield f"was too slow for {self._lost_rows} rows"

    def _work(self) -> None:
        try:
            self._track()
        except BaseException as error:  # noqa: BLE001  W&B never ends a run
            self._problem = _one_line(error)
            log.warning("W&B failed, training goes on without it: %s", self._problem)
            service.forget_service()

    def _track(self) -> None:
        run = self._start()
        self.url = run.url or ""
        try:
            define_metrics(run)
            already, last_step = run.step, 0
            for row in self._past_rows():
                if position(row) >= already:
                    log_row(run, row)
            set_config(run, self._past_version())
            while not isinstance(item := self._queue.get(), _Finish):
                if isinstance(item, _Version):
                    set_config(run, item.config)
                    continue
                log_row(run, item)
                last_step = max(last_step, item.get("step", 0))
            # A reload is logged against its own step, which may be older than the last row's.
            run.summary.update({"step": last_step} if last_step else {})
            run.summary.update(finite(item.summary))
            run.summary.update(self._objective(item.summary))
            save_files(run, self._run_dir)
            run.finish(exit_code=item.exit_code)
        except BaseException:
            with suppress(Exception):
                run.finish(exit_code=1)
            raise
        if service.upload_failed():
            raise RuntimeError("not all data could be sent")

    def _objective(self, summary: Mapping[str, Any]) -> dict[str, float | None]:
        """The ``metric`` of W&B's own sweeps; only a completed run has it."""
        if summary.get("state") != "completed":
            return {}
        (metrics, _), _ = self._past
        return {"objective": objective.value(self._config, summary, read_jsonl(metrics))}

    def _start(self) -> Any:
        folder = wandb_folder(self._config, self._outputs)
        assert folder is not None
        # If the folder is missing, W&B silently writes to the system's temporary folder.
        folder.mkdir(parents=True, exist_ok=True)
        if self._config.tracker.mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # offline must make no request
        import wandb

        service.report_no_errors()
        wandb.setup(settings=wandb.Settings(silent=True))
        service.watch_upload()
        if self._config.tracker.mode == "online" and not _has_credentials(wandb):
            raise RuntimeError("no API key; set WANDB_API_KEY or use `wandb login`")
        tracker, env = self._config.tracker, os.environ
        labels = labels_of(self._config, self._run_dir, self._origin)
        for cut_off in folder.glob(f"offline-run-*-{self._origin.run_id}"):
            shutil.rmtree(cut_off, ignore_errors=True)
        return wandb.init(
            id=self._origin.run_id,
            resume="allow" if tracker.mode == "online" else None,
            mode=tracker.mode,  # type: ignore[arg-type]
            project=tracker.project or env.get("WANDB_PROJECT") or PROJECT,
            entity=tracker.entity,
            tags=labels.tags,
            name=(not self._named and env.get("WANDB_NAME")) or labels.name,
            notes=tracker.notes,
            job_type=env.get("WANDB_JOB_TYPE") or labels.job_type,
            group=env.get("WANDB_RUN_GROUP") or self._origin.group,
            config=labels.config,
            dir=env.get("WANDB_DIR") or str(self._outputs),
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                save_code=False,
                host=None if tracker.log_host else "",
                x_disable_meta=True,  # it holds the command line with its secrets, and the host
                x_disable_stats=True,  # it would sample this process, not the worker
                x_transaction_log_flush_interval=FLUSH_SECONDS,
            ),
        )

    def _past_version(self) -> dict[str, Any]:
        """Of the lab that began the run, where its folder says so already."""
        _, (events, size) = self._past
        found = (lab_version(event) for event in read_jsonl(events, limit=size))
        return next(filter(None, found), {})

    def _past_rows(self) -> Iterator[dict[str, Any]]:
        (metrics, metrics_size), (events, events_size) = self._past
        reloads = {
            position(row): row
            for event in read_jsonl(events, limit=events_size)
            if event.get("event") in ("reload", "remedy")
            for row in [reload_row(event, self._metric)]
        }
        for row in read_jsonl(metrics, limit=metrics_size):
            yield row
            if reload := reloads.get(position(row) + 1):
                yield reload


def can_send() -> bool:
    """Whether W&B is online and this user has an API key."""
    import wandb

    return os.environ.get("WANDB_MODE", "online") == "online" and _has_credentials(wandb)


@functools.cache
def has_key() -> bool:
    """Whether W&B finds credentials for its server, of which it asks nothing.

    In a process of its own: there it starts a service, and prints what it found.
    """
    if os.environ.get("WANDB_MODE", "online") != "online":
        return True  # login() does not look then; init() decides
    look = f"import sys, wandb; wandb.login(prompt=False, verify=False) or sys.exit({NO_KEY})"
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", look],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LOOK_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return True
    return done.returncode != NO_KEY  # another failure is told when the run starts


def _has_credentials(wandb: Any) -> bool:
    """Checked before ``init``, which would otherwise prompt on the user's terminal."""
    if os.environ.get("WANDB_MODE", "online") != "online":
        return True  # login() does not look then; init() decides
    return wandb.login(prompt=False, verify=False)


def _one_line(error: BaseException) -> str:
    """The first line of an error, with the API key masked should W&B have quoted it."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    secret = os.environ.get("WANDB_API_KEY")
    return text.replace(secret, "***") if secret else text


def _files(run_dir: Path) -> tuple[Path, Path]:
    return run_dir / "metrics.jsonl", run_dir / "events.jsonl"


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
