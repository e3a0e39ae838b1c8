"""Progress of a run on the console: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TextIO

from lab.config.keys import Config
from lab.records.rows import metric_gb
from lab.tracking.text import duration, number

PLAIN_LINES = 20  # a run, besides its events
REDRAW_SECONDS = 0.2
BAR_FROM_WIDTH = 90  # terminal columns; below, there is no room for a progress bar
# Suppressed on writing: the reader of a pipe may leave, a terminal be closed; training goes on.
STREAM_CLOSED = (OSError, ValueError)

SHOWN_EVENTS = {
    "budget_exceeded": "memory budget exceeded",
    "fault_armed": "fault armed",
    "nonfinite": "a value is not finite",
    "reload_ineffective": "reload did not help",
    "replay_mismatch": "a replayed step gave another loss",
    "resumed": "resumed",
    "worker_died": "worker died",
}
SHOWN_ONCE = ("nonfinite", "reload_skipped", "clear_cache", "collect")  # a run may have thousands


def open_progress(
    config: Config, *, stream: TextIO | None = None, interactive: bool | None = None
) -> PlainProgress:
    """Open live progress if ``stream`` is a terminal, else plain progress.

    Arguments:
        stream: by default the standard output.
        interactive: overrules whether the stream is a terminal.
    """
    out: TextIO = sys.stdout if stream is None else stream
    live = out.isatty() if interactive is None else interactive
    return (LiveProgress if live else PlainProgress)(config, out)


class PlainProgress:
    """Print one line at the start, one every twentieth of the steps, one for each shown event."""

    def __init__(self, config: Config, stream: TextIO) -> None:
        self._stream = stream
        self._steps = config.train.steps
        self._metric = config.reload.metric
        self._budget_gb = config.memory.budget_gb
        self._first: tuple[int, float] | None = None
        self._twentieth = -1
        self._seen: set[str] = set()

    def log(self, row: Mapping[str, Any]) -> None:
        if self._first is None:
            self._first = (row["step"], row["time"])
        self._show(row)

    def event(self, event: Mapping[str, Any]) -> None:
        name = str(event.get("event"))
        if name == "remedy":
            name = str(event.get("remedy"))
        if name in SHOWN_ONCE and name in self._seen:
            return
        self._seen.add(name)
        line = event_line(event, self._metric)
        if line:
            self._say(line)

    def close(self, summary: Mapping[str, Any], exit_code: int) -> list[str]:
        """Restore the console."""
        del summary, exit_code
        return []

    def _show(self, row: Mapping[str, Any]) -> None:
        twentieth = row["step"] * PLAIN_LINES // self._steps
        if twentieth != self._twentieth:
            self._twentieth = twentieth
            self._say(
                f"step {row['step']:>{len(str(self._steps))}}/{self._steps}  " + self._status(row)
            )

    def _say(self, line: str) -> None:
        with suppress(*STREAM_CLOSED):
            print(line, file=self._stream, flush=True)

    def _status(self, row: Mapping[str, Any]) -> str:
        parts = (
            f"loss {number(row.get('loss'), '.4f')}",
            f"{number(row.get('tokens_per_second'), ',.0f')} tok/s",
            f"memory {number(metric_gb(row, self._metric), '.2f')}/{self._budget_gb:.2f} GB",
            f"reloads {row.get('reload/count') or 0}",
            f"{duration(self._seconds_left(row))} left",
        )
        return "  ".join(parts)

    def _seconds_left(self, row: Mapping[str, Any]) -> float | None:
        """Estimate from the pace since the first row, reloads and checkpoints included."""
        assert self._first is not None
        step, began = self._first
        done = row["step"] - step
        return (row["time"] - began) / done * (self._steps - row["step"]) if done else None


class LiveProgress(PlainProgress):
    """Redraw one line in place; events and log records appear above it."""

    def __init__(self, config: Config, stream: TextIO) -> None:
        super().__init__(config, stream)
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=stream, force_terminal=True)
        # No refresh thread: it would draw ten times a second whether anything changed or not. No
        # redirection: the error messages of a crash would vanish with the line.
        self._live = Live(
            console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._drawn = 0.0
        self._handlers = _log_above(self._console)
        self._live.start()

    def close(self, summary: Mapping[str, Any], exit_code: int) -> list[str]:
        """Restore the console and leave the last line on it."""
        with suppress(*STREAM_CLOSED):
            self._live.stop()
        for handler, stream in self._handlers:
            handler.setStream(stream)
        return super().close(summary, exit_code)

    def _show(self, row: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if now - self._drawn < REDRAW_SECONDS and row["step"] < self._steps:
            return
        self._drawn = now
        with suppress(*STREAM_CLOSED):
            self._live.update(self._line(row), refresh=True)

    def _say(self, line: str) -> None:
        from rich.text import Text

        with suppress(*STREAM_CLOSED):
            self._console.print(Text(line), soft_wrap=True)

    def _line(self, row: Mapping[str, Any]) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        # No markup in the line: rich draws it again with the options of whatever is printed above.
        done = Text.assemble((str(row["step"]), "bold"), f"/{self._steps}  ")
        status = Text(self._status(row))
        if self._console.width < BAR_FROM_WIDTH:
            return Text.assemble(done, status, no_wrap=True, overflow="ellipsis")
        line = Table.grid(expand=True, padding=(0, 1))
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True)
        done.rstrip()
        line.add_row(done, ProgressBar(total=self._steps, completed=row["step"]), status)
        return line


def event_line(event: Mapping[str, Any], metric: str) -> str | None:
    """Format an event as one line; None for an event that is only in the file.

    Arguments:
        metric: the memory figure shown for a reload (``reload.metric``).
    """
    name, step = event.get("event"), event.get("step")
    if name in ("reload", "remedy"):
        figures = (metric_gb(event.get(when) or {}, metric) for when in ("before", "after"))
        changed = " -> ".join(number(figure, ".2f") for figure in figures)
        if name == "remedy":
            what = f"{event.get('remedy')} after step {step}"
            return f"{what}: {changed} GB; later ones go unmentioned"
        seconds = sum(max(part, 0.0) for part in (event.get("seconds") or {}).values())
        how = f"{event.get('reason')}, {event.get('method')}"
        return f"reload after step {step} ({how}): {changed} GB in {seconds:.2f} s"
    if name == "reload_skipped":
        return (
            f"reload after step {step} ({event.get('reason')}) skipped; later ones go unmentioned"
        )
    if name not in SHOWN_EVENTS:
        return None
    fields = [
        f"{key}={_field(value)}"
        for key, value in event.items()
        if key not in ("event", "step", "time") and isinstance(value, str | int | float)
    ]
    return f"{SHOWN_EVENTS[name]} (step {step})" + ": " * bool(fields) + ", ".join(fields)


def _field(value: object) -> str:
    """A float in four digits; of a longer text, such as a traceback, the last line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return (str(value).strip().splitlines() or [""])[-1]


def _log_above(console: Any) -> list[tuple[logging.StreamHandler[Any], Any]]:
    """Send terminal log lines above the live line; return handlers and streams to restore."""
    from rich.file_proxy import FileProxy

    changed = []
    for handler in logging.getLogger().handlers:
        # A FileHandler is a StreamHandler too: its stream is no terminal, and None once closed.
        stream = getattr(handler, "stream", None)
        if not isinstance(handler, logging.StreamHandler) or getattr(stream, "closed", True):
            continue
        if stream.isatty():
            changed.append((handler, handler.stream))
            handler.setStream(FileProxy(console, handler.stream))
    return changed
