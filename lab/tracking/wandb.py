"""Weights & Biases on a thread of its own: slow, hanging or failing, it never blocks training."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.config.keys import Config
from lab.records import objective
from lab.records.origin import Origin
from lab.records.rows import finite, read_jsonl
from lab.tracking import service
from lab.tracking.folders import wandb_folder
from lab.tracking.labels import labels_of
from lab.tracking.leet import show_first
from lab.tracking.logged import define_metrics, log_row, position, save_files, set_config
from lab.tracking.queued import FINISH_SECONDS, Finish, QueuedTracker, Version

PROJECT = "mlx-memory-lab"

# For the look at W&B's credentials, and the exit status of one that finds none.
LOOK_SECONDS, NO_KEY = 60.0, 7

# W&B's default of 15 s would lose that much when the machine goes down.
FLUSH_SECONDS = 0.5


class WandbTracker(QueuedTracker):
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
        is_training: the run goes on meanwhile.

    Attributes:
        run_id: W&B's and the run's own.
        url: its address; empty before it has begun, and offline.
    """

    label = "W&B"

    def __init__(
        self,
        config: Config,
        *,
        outputs: Path,
        run_dir: Path,
        origin: Origin,
        overrides: list[str] | None = None,
        finish_seconds: float = FINISH_SECONDS,
        is_training: bool = True,
    ) -> None:
        self._outputs = outputs.resolve()
        self._origin = origin
        self.run_id, self.url = origin.run_id, ""
        self._named = any(text.startswith("name=") for text in overrides or [])
        super().__init__(
            config, run_dir=run_dir, finish_seconds=finish_seconds, is_training=is_training
        )

    def close(self, summary: Mapping[str, object], exit_code: int) -> list[str]:
        """Finish the W&B run; return its problems. Waits at most ``finish_seconds``."""
        problems = super().close(summary, exit_code)
        if problems:
            service.bound_exit()
        return problems

    def _clean_up(self) -> None:
        service.forget_service()

    def _track(self) -> None:
        run = self._start()
        self.url = run.url or ""
        with service.finishing(run):
            define_metrics(run)
            already, last_step = run.step, 0
            for row in self._past_rows():
                if position(row) >= already:
                    log_row(run, row)
            set_config(run, self._past_version())
            while not isinstance(item := self._queue.get(), Finish):
                if isinstance(item, Version):
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

    def _objective(self, summary: Mapping[str, Any]) -> dict[str, float | None]:
        """The ``metric`` of W&B's own sweeps; only a completed run has it."""
        if summary.get("state") != "completed":
            return {}
        (metrics, _), _ = self._past
        return {"objective": objective.value(self._config, summary, read_jsonl(metrics))}

    def _start(self) -> Any:
        folder = wandb_folder(self._config, self._outputs)
        assert folder is not None
        labels, env = labels_of(self._config, self._run_dir, self._origin), os.environ
        run = start_run(
            self._config,
            folder,
            self._origin.run_id,
            tags=labels.tags,
            name=(not self._named and env.get("WANDB_NAME")) or labels.name,
            notes=self._config.tracker.notes,
            job_type=env.get("WANDB_JOB_TYPE") or labels.job_type,
            group=env.get("WANDB_RUN_GROUP") or self._origin.group,
            config=labels.config,
        )
        if not env.get("WANDB_DIR"):  # where other programs' runs may lie
            show_first(folder, [self._config.reload.metric])
        return run


def start_run(config: Config, folder: Path, run_id: str, /, **labels: Any) -> Any:
    """Begin a W&B run, in place of an offline run of the same id.

    Arguments:
        folder: named ``wandb``; the run's own is made in it.
        labels: as ``wandb.init`` takes them.

    Raises:
        Exception: anything, where W&B fails.
    """
    tracker = config.tracker
    # If the folder is missing, W&B silently writes to the system's temporary folder.
    folder.mkdir(parents=True, exist_ok=True)
    if tracker.mode == "offline":
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # offline must make no request
    import wandb

    service.report_no_errors()
    wandb.setup(settings=wandb.Settings(silent=True))
    service.watch_upload()
    if tracker.mode == "online" and not _has_credentials(wandb):
        raise RuntimeError("no API key; set WANDB_API_KEY or use `wandb login`")
    for earlier in folder.glob(f"offline-run-*-{run_id}"):
        shutil.rmtree(earlier, ignore_errors=True)
    return wandb.init(
        id=run_id,
        resume="allow" if tracker.mode == "online" else None,
        mode=tracker.mode,  # type: ignore[arg-type]
        project=tracker.project or os.environ.get("WANDB_PROJECT") or PROJECT,
        entity=tracker.entity,
        dir=str(folder.parent),
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
        **labels,
    )


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
