"""What a person sees while a run goes on: one live line on a terminal, plain lines elsewhere."""

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

PLAIN_LINES = 20  # of a whole run, beside its events
REDRAW_SECONDS = 0.2
BAR_FROM_WIDTH = 90  # columns; below, the figures need them all
# The reader of a pipe may leave, a terminal be closed; training goes on.
GONE = (OSError, ValueError)

SHOWN_EVENTS = {
    "budget_exceeded": "memory budget exceeded",
    "fault_armed": "fault armed",
    "nonfinite": "the loss is not finite",
    "reload_ineffective": "reload did not help",
    "replay_mismatch": "a replayed step gave another loss",
    "resumed": "resumed",
    "worker_died": "worker died",
}
TOLD_ONCE = ("nonfinite", "reload_skipped")  # a run that goes on all the same may have thousands


def open_progress(
    config: Config, *, stream: TextIO | None = None, interactive: bool | None = None
) -> PlainProgress:
    """The progress that suits ``stream``, by default the standard output."""
    out: TextIO = sys.stdout if stream is None else stream
    live = out.isatty() if interactive is None else interactive
    return (LiveProgress if live else PlainProgress)(config, out)


class PlainProgress:
    """A line at the start, for each twentieth of the steps, and for each event that matters."""

    def __init__(self, config: Config, stream: TextIO) -> None:
        self._stream = stream
        self._steps = config.train.steps
        self._metric = config.reload.metric
        self._budget_gb = config.memory.budget_gb
        self._first: tuple[int, float] | None = None
        self._twentieth = -1
        self._told: set[str] = set()

    def log(self, row: Mapping[str, Any]) -> None:
        if self._first is None:
            self._first = (row["step"], row["time"])
        self._show(row)

    def event(self, event: Mapping[str, Any]) -> None:
        name = str(event.get("event"))
        if name in TOLD_ONCE and name in self._told:
            return
        self._told.add(name)
        line = event_line(event, self._metric)
        if line:
            self._say(line)

    def close(self, summary: Mapping[str, Any], exit_code: int) -> list[str]:
        """Leave the console as it was."""
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
        with suppress(*GONE):
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
        """By the pace since the first row seen, reloads and checkpoints included."""
        assert self._first is not None
        step, began = self._first
        done = row["step"] - step
        return (row["time"] - began) / done * (self._steps - row["step"]) if done else None


class LiveProgress(PlainProgress):
    """One line that is drawn over; events, and what the program logs, appear above it."""

    def __init__(self, config: Config, stream: TextIO) -> None:
        super().__init__(config, stream)
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=stream, force_terminal=True)
        # Its own refresh thread would draw ten times a second whether anything happened or not; and
        # redirected, error messages of a crash would vanish with the line.
        self._live = Live(
            console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._drawn = 0.0
        self._handlers = _log_above(self._console)
        self._live.start()

    def close(self, summary: Mapping[str, Any], exit_code: int) -> list[str]:
        """Leave the console as it was, the last line on it."""
        with suppress(*GONE):
            self._live.stop()
        for handler, stream in self._handlers:
            handler.setStream(stream)
        return super().close(summary, exit_code)

    def _show(self, row: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if now - self._drawn < REDRAW_SECONDS and row["step"] < self._steps:
            return
        self._drawn = now
        with suppress(*GONE):
            self._live.update(self._line(row), refresh=True)

    def _say(self, line: str) -> None:
        from rich.text import Text

        with suppress(*GONE):
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
    """One line for a person, or None for an event that is only for the file."""
    name, step = event.get("event"), event.get("step")
    if name == "reload":
        before = number(metric_gb(event.get("before") or {}, metric), ".2f")
        after = number(metric_gb(event.get("after") or {}, metric), ".2f")
        seconds = sum(max(part, 0.0) for part in (event.get("seconds") or {}).values())
        how = f"{event.get('reason')}, {event.get('method')}"
        return f"reload after step {step} ({how}): {before} -> {after} GB in {seconds:.2f} s"
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
    """A figure in few digits; of a longer text, such as a traceback, the last line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return (str(value).strip().splitlines() or [""])[-1]


def _log_above(console: Any) -> list[tuple[logging.StreamHandler[Any], Any]]:
    """Let log lines for the terminal go above the live line; returns what to put back."""
    from rich.file_proxy import FileProxy

    changed = []
    for handler in logging.getLogger().handlers:
        # FileHandler is a StreamHandler too: its stream is no terminal, and None once closed.
        stream = getattr(handler, "stream", None)
        if isinstance(handler, logging.StreamHandler) and stream is not None and stream.isatty():
            changed.append((handler, handler.stream))
            handler.setStream(FileProxy(console, handler.stream))
    return changed
