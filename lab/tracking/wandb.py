"""Weights & Biases on a thread of its own: slow, hanging or failing, it holds up no training."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread, Timer
from typing import Any, NamedTuple

from lab.config.keys import Config
from lab.config.schema import to_dict
from lab.records import objective
from lab.records.origin import Origin
from lab.records.rows import MEMORY_KEYS, finite, metric_gb, read_jsonl
from lab.tracking.folders import wandb_folder

log = logging.getLogger(__name__)

PROJECT = "mlx-memory-lab"

# An upload that needs longer is better done by `wandb sync`: nobody waits for a prompt that long,
# and a sweep would wait once a job.
FINISH_SECONDS = 15.0

# What W&B's own process gets to end by itself after it failed or hung, once all else is done.
EXIT_SECONDS = 1.0

# About 20 MB of rows. A W&B that hangs must not grow the memory of the process beside the one whose
# memory is measured.
BACKLOG_ROWS = 10_000

# The default of 15 s would lose that much when the machine goes down.
FLUSH_SECONDS = 0.5


class _Finish(NamedTuple):
    summary: dict[str, Any]
    exit_code: int


class WandbTracker:
    """Shows a run's rows in W&B, as one complete W&B run, also after a resume.

    W&B takes about half a second to start; rows wait in a queue meanwhile. Rows and reloads that
    the run's folder holds at construction come first: a resumed run would otherwise begin in its
    middle, for an offline run cannot be continued. It takes the place of the offline run that was
    cut off; online, only what the server does not have yet is sent.

    Args:
        config: its ``tracker.mode`` is ``offline`` or ``online``.
        outputs: W&B writes into ``outputs/wandb``, unless ``WANDB_DIR`` says otherwise.
        origin: how the run was begun; its id is W&B's too, whenever it goes on.
        overrides: what the user set; without a ``name=`` among them ``WANDB_NAME`` wins.
        finish_seconds: how long ``close`` waits for W&B.
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
        self._named = any(text.startswith("name=") for text in overrides or [])
        self._finish_seconds = finish_seconds
        self._metric = config.reload.metric
        self._past = [(path, _size(path)) for path in _files(run_dir)]
        self._queue: SimpleQueue[dict[str, Any] | _Finish] = SimpleQueue()
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

    def event(self, event: Mapping[str, object]) -> None:
        if event.get("event") == "reload":
            self.log(reload_row(event, self._metric))

    def close(self, summary: Mapping[str, object], exit_code: int) -> list[str]:
        """Finish the W&B run and say what went wrong. Takes at most ``finish_seconds``."""
        self._queue.put(_Finish(dict(summary), exit_code))
        self._thread.join(self._finish_seconds)
        problems = [f"W&B {text}; metrics.jsonl has every row" for text in self._problems()]
        if problems:
            _bound_exit()
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
        except BaseException as error:  # noqa: BLE001  whatever W&B does, the run goes on
            self._problem = _one_line(error)
            log.warning("W&B failed, training goes on without it: %s", self._problem)
            _forget_service()

    def _track(self) -> None:
        run = self._start()
        try:
            _define_metrics(run)
            already, last_step = run.step, 0
            for row in self._past_rows():
                if _position(row) >= already:
                    run.log(row, step=_position(row), commit=True)
            while not isinstance(item := self._queue.get(), _Finish):
                run.log(finite(item), step=_position(item), commit=True)
                last_step = max(last_step, item.get("step", 0))
            # A reload is logged against its own step, which may be older than the last row's.
            run.summary.update({"step": last_step} if last_step else {})
            run.summary.update(finite(item.summary))
            run.summary.update(self._objective(item.summary))
            run.finish(exit_code=item.exit_code)
        except BaseException:
            with suppress(Exception):
                run.finish(exit_code=1)
            raise

    def _objective(self, summary: Mapping[str, Any]) -> dict[str, float | None]:
        """For the ``metric`` of a sweep of W&B's own; of a run that has not ended there is none."""
        if summary.get("state") != "completed":
            return {}
        (metrics, _), _ = self._past
        return {"objective": objective.value(self._config, summary, read_jsonl(metrics))}

    def _start(self) -> Any:
        if not os.environ.get("WANDB_DIR"):
            # W&B itself would fall back to the system's temporary folder without a word.
            (self._outputs / "wandb").mkdir(parents=True, exist_ok=True)
        if self._config.tracker.mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # offline calls nobody
        import wandb

        wandb.setup(settings=wandb.Settings(silent=True))
        if self._config.tracker.mode == "online" and not _has_credentials(wandb):
            raise RuntimeError("no API key; set WANDB_API_KEY or use `wandb login`")
        tracker, env = self._config.tracker, os.environ
        folder = wandb_folder(self._config, self._outputs)
        assert folder is not None
        for cut_off in folder.glob(f"offline-run-*-{self._origin.run_id}"):
            shutil.rmtree(cut_off, ignore_errors=True)
        return wandb.init(
            id=self._origin.run_id,
            resume="allow" if tracker.mode == "online" else None,
            mode=tracker.mode,  # type: ignore[arg-type]
            project=tracker.project or env.get("WANDB_PROJECT") or PROJECT,
            entity=tracker.entity,
            tags=list(tracker.tags) or None,
            name=(not self._named and env.get("WANDB_NAME")) or self._config.name,
            group=env.get("WANDB_RUN_GROUP") or self._origin.group,
            config=to_dict(self._config),
            dir=env.get("WANDB_DIR") or str(self._outputs),
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                save_code=False,
                x_disable_stats=True,  # it would sample this process, not the worker
                x_transaction_log_flush_interval=FLUSH_SECONDS,
            ),
        )

    def _past_rows(self) -> Iterator[dict[str, Any]]:
        (metrics, metrics_size), (events, events_size) = self._past
        reloads = {
            _position(row): row
            for event in read_jsonl(events, limit=events_size)
            if event.get("event") == "reload"
            for row in [reload_row(event, self._metric)]
        }
        for row in read_jsonl(metrics, limit=metrics_size):
            yield row
            if reload := reloads.get(_position(row) + 1):
                yield reload


def _position(row: Mapping[str, Any]) -> int:
    """W&B's own step of a row, which must only grow; a reload follows the row after it."""
    return 2 * row["step"] + (3 if "reload/reason" in row else 0)


def reload_row(event: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """A reload as W&B gets it: the memory before and after it, against the step it followed."""
    return {
        "step": event.get("step"),
        "reload/before_gb": metric_gb(event.get("before") or {}, metric),
        "reload/after_gb": metric_gb(event.get("after") or {}, metric),
        "reload/reason": event.get("reason"),
    }


def _define_metrics(run: Any) -> None:
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    for key in MEMORY_KEYS:  # one by one: of two globs that match, W&B may take either
        run.define_metric(key, step_metric="step", summary="min,max,mean,last")


def can_send() -> bool:
    """Whether this user is known to a W&B server."""
    import wandb

    return os.environ.get("WANDB_MODE", "online") == "online" and _has_credentials(wandb)


def _has_credentials(wandb: Any) -> bool:
    """Asked before ``init``, which would otherwise put a question on the user's terminal."""
    if os.environ.get("WANDB_MODE", "online") != "online":
        return True  # login() refuses to look then; init() decides
    return wandb.login(prompt=False, verify=False)


def _forget_service() -> None:
    """Let the next run of this process, and the interpreter's end, have nothing to do with it."""
    wandb: Any = sys.modules.get("wandb")
    with suppress(BaseException):  # it tells again how it failed
        wandb.teardown(exit_code=1)


@functools.cache
def _bound_exit() -> None:
    """Let the interpreter end although W&B hangs: at exit W&B waits for its process for ever."""

    def kill_later() -> None:
        # Neither imported nor asked: the import may be what hangs, and wandb.setup() waits for a
        # lock that is held for ever where its process died while it started.
        setup: Any = sys.modules.get("wandb.sdk.wandb_setup")
        with suppress(AttributeError):  # it may never have started its process
            process = setup._singleton._connection._proc._process  # noqa: SLF001  no public way
            timer = Timer(EXIT_SECONDS, process.kill)
            timer.daemon = True
            timer.start()

    atexit.register(kill_later)  # runs before W&B's own, which was registered earlier


def _one_line(error: BaseException) -> str:
    """The first line of what went wrong, without the key should W&B have quoted it."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    secret = os.environ.get("WANDB_API_KEY")
    return text.replace(secret, "***") if secret else text


def _files(run_dir: Path) -> tuple[Path, Path]:
    return run_dir / "metrics.jsonl", run_dir / "events.jsonl"


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
