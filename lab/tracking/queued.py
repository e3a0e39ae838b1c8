"""A tracker whose tool works on a thread of its own: slow, hanging or failing, training goes on."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, Protocol

from lab.config.keys import TRACKERS, Config
from lab.records.origin import Origin
from lab.records.rows import read_jsonl
from lab.tracking.logged import lab_version, position, reload_row
from lab.tracking.opening import not_installed

log = logging.getLogger(__name__)

# An upload that needs longer is left for later: a sweep would wait so long at each job.
FINISH_SECONDS = 15.0

# About 20 MB of rows: a tool that hangs must not fill the machine whose memory is measured.
BACKLOG_ROWS = 10_000


# What a machine that goes down takes from a view; a resumed run hands it over again.
FLUSH_SECONDS = 1.0


class Version(NamedTuple):
    """Of the lab that trains, known a little after the tracker was opened."""

    config: dict[str, Any]


class Finish(NamedTuple):
    summary: dict[str, Any]
    exit_code: int


class QueuedTracker:
    """Queue a run's rows, reloads and remedies for a thread that hands them to a tool.

    A subclass says in ``_track`` what the thread does. Its ``__init__`` calls this one last, for
    the thread begins at once.

    Arguments:
        run_dir: what its files hold now is for :meth:`_past_rows`, what follows for the queue.
        finish_seconds: how long ``close`` waits for the tool.
        is_training: the run goes on meanwhile, which a failure is told with.

    Attributes:
        label: the tool's name, in messages.
    """

    label: str

    def __init__(
        self,
        config: Config,
        *,
        run_dir: Path,
        finish_seconds: float = FINISH_SECONDS,
        is_training: bool = True,
    ) -> None:
        self._config, self._run_dir = config, run_dir
        self._finish_seconds, self._is_training = finish_seconds, is_training
        self._past = [
            (path, _size(path)) for path in (run_dir / "metrics.jsonl", run_dir / "events.jsonl")
        ]
        self._queue: SimpleQueue[dict[str, Any] | Version | Finish] = SimpleQueue()
        self._lost_rows = 0
        self._problem = ""
        self._thread = Thread(target=self._work, name=self.label, daemon=True)
        self._thread.start()

    def log(self, row: Mapping[str, object]) -> None:
        if self._problem:
            return
        if self._queue.qsize() >= BACKLOG_ROWS:
            self._lost_rows += 1
            return
        self._queue.put(dict(row))

    def replay(self, row: Mapping[str, object], last_step: int) -> None:
        """Do nothing: the tool has the row of the step's first execution."""

    def event(self, event: Mapping[str, object]) -> None:
        match event.get("event"):
            case "reload" | "remedy":
                self.log(reload_row(event, self._config.reload.metric))
            case "worker_started" if version := lab_version(event):
                self._queue.put(Version(version))

    def close(self, summary: Mapping[str, object], exit_code: int) -> list[str]:
        """Finish the run there; return its problems. Waits at most ``finish_seconds``."""
        self._queue.put(Finish(dict(summary), exit_code))
        self._thread.join(self._finish_seconds)
        return [f"{self.label} {text}; metrics.jsonl has every row" for text in self._problems()]

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
        except BaseException as error:  # noqa: BLE001  no tool ends a run
            self._problem = one_line(error)
            if self._is_training:
                what = "failed, training goes on without it"
                log.warning("%s %s: %s", self.label, what, self._problem)
            self._clean_up()

    def _track(self) -> None:
        """Hand over what is there, then what comes until :class:`Finish`; may raise anything."""
        raise NotImplementedError

    def _clean_up(self) -> None:
        """Undo what a tool that failed has left in this process."""

    def _past_version(self) -> dict[str, Any]:
        """Of the lab that began the run, where its folder says so already."""
        _, (events, size) = self._past
        found = (lab_version(event) for event in read_jsonl(events, limit=size))
        return next(filter(None, found), {})

    def _past_rows(self) -> Iterator[dict[str, Any]]:
        """Rows that the folder held when this was opened, each reload after the row it shows in."""
        (metrics, metrics_size), (events, events_size) = self._past
        metric = self._config.reload.metric
        reloads = {
            position(row): row
            for event in read_jsonl(events, limit=events_size)
            if event.get("event") in ("reload", "remedy")
            for row in [reload_row(event, metric)]
        }
        for row in read_jsonl(metrics, limit=metrics_size):
            yield row
            if reload := reloads.get(position(row) + 1):
                yield reload


class View(Protocol):
    """One run in a tool that keeps what it has over a resume; it may raise anything."""

    def add(self, row: Mapping[str, Any], at: float) -> None:
        """Add a row, or the figures of a reload or remedy, of ``at`` seconds since the epoch."""

    def describe(self, version: Mapping[str, Any]) -> None:
        """Add the version of the lab that trains."""

    def flush(self) -> None:
        """Write what was added."""

    def finish(self, summary: Mapping[str, Any], at: float) -> None:
        """Add the summary, and end."""


OpenView = Callable[[Config, Path, Origin, float], View]
"""From a run's config, folder, origin and beginning, in seconds since the epoch."""


class ViewTracker(QueuedTracker):
    """Track a run in a :class:`View`, which is opened and used by the tracker's thread only.

    Rows are dated by the run's own clock, which stands still between a cut and its resume: a row
    that is handed over again has its first date.
    """

    def __init__(
        self, label: str, open_view: OpenView, config: Config, *, run_dir: Path, origin: Origin
    ) -> None:
        self.label, self._open_view, self._origin = label, open_view, origin
        self._at = self._began = _begun(run_dir)
        super().__init__(config, run_dir=run_dir)

    def _track(self) -> None:
        view = self._open_view(self._config, self._run_dir, self._origin, self._began)
        for row in self._past_rows():
            self._add(view, row)
        view.describe(self._past_version())
        view.flush()
        flushed = time.monotonic()
        while True:
            with suppress(Empty):
                match self._queue.get(timeout=FLUSH_SECONDS):
                    case Finish(summary=summary):
                        view.finish(summary, self._at)
                        return
                    case Version(config=version):
                        view.describe(version)
                    case row:
                        self._add(view, row)
            if time.monotonic() - flushed >= FLUSH_SECONDS:
                view.flush()
                flushed = time.monotonic()

    def _add(self, view: View, row: Mapping[str, Any]) -> None:
        self._at = self._began + row.get("time", self._at - self._began)
        view.add(row, self._at)


def _begun(run_dir: Path) -> float:
    """When the run's config was written, which nothing changes later."""
    with suppress(OSError):
        return (run_dir / "config.yaml").stat().st_mtime
    return time.time()


def one_line(error: BaseException) -> str:
    """The first line of an error, with the API key masked should W&B have quoted it."""
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        if package in TRACKERS:
            return not_installed(package)
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    secret = os.environ.get("WANDB_API_KEY")
    return text.replace(secret, "***") if secret else text


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
