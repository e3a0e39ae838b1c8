"""A run on the console: on a terminal a panel and one live line, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TextIO

from lab.config.keys import Config
from lab.tracking.lines import STREAM_CLOSED, PlainProgress, fitting
from lab.tracking.text import clean

REDRAW_SECONDS = 0.2
SHORTEST_BAR = 12  # columns; where the line leaves less, there is none


def open_progress(
    config: Config,
    *,
    introduction: Mapping[str, str] | None = None,
    stream: TextIO | None = None,
    interactive: bool | None = None,
) -> PlainProgress:
    """Open live progress if ``stream`` is a terminal, else plain progress.

    Arguments:
        introduction: of the run; drawn on a terminal, elsewhere the log has it.
        stream: by default the standard output.
        interactive: overrules whether the stream is a terminal.
    """
    out: TextIO = sys.stdout if stream is None else stream
    if out.isatty() if interactive is None else interactive:
        return LiveProgress(config, out, introduction or {})
    return PlainProgress(config, out)


class LiveProgress(PlainProgress):
    """Redraw one line in place; events and log records appear above it."""

    def __init__(self, config: Config, stream: TextIO, introduction: Mapping[str, str]) -> None:
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
        self._handlers = log_above(self._console)
        if introduction:
            with suppress(*STREAM_CLOSED):
                self._console.print(_panel(config.name, introduction))
        self._live.start()

    def close(self, summary: Mapping[str, Any], exit_code: int) -> list[str]:
        """Restore the console and leave the last line on it."""
        with suppress(*STREAM_CLOSED):
            self._live.stop()
        restore(self._handlers)
        return super().close(summary, exit_code)

    def _show(self, step: int, status: Mapping[str, str]) -> None:
        now = time.monotonic()
        if now - self._drawn < REDRAW_SECONDS and step < self._steps:
            return
        self._drawn = now
        with suppress(*STREAM_CLOSED):
            self._live.update(self._line(step, status), refresh=True)

    def _say(self, line: str) -> None:
        from rich.text import Text

        with suppress(*STREAM_CLOSED):
            self._console.print(Text(line), soft_wrap=True)

    def _line(self, step: int, status: Mapping[str, str]) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        # No markup in the line: rich draws it again with the options of whatever is printed above.
        done = Text.assemble((str(step), "bold"), f"/{self._steps}")
        text = fitting(status, self._console.width - done.cell_len - 2)
        if self._console.width - done.cell_len - len(text) - 2 < SHORTEST_BAR:
            return Text.assemble(done, "  ", text, no_wrap=True, overflow="ellipsis")
        line = Table.grid(expand=True, padding=(0, 1))
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True)
        line.add_row(done, ProgressBar(total=self._steps, completed=step), Text(text))
        return line


def _panel(name: str, introduction: Mapping[str, str]) -> Any:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    lines = Table.grid(padding=(0, 2, 0, 0))
    lines.add_column(no_wrap=True, style="bold")
    lines.add_column(overflow="fold")
    for subject, text in introduction.items():
        lines.add_row(subject, Text(text))
    title = Text(clean(name), style="bold")
    return Panel(lines, title=title, title_align="left", border_style="dim", expand=False)


@dataclass(frozen=True)
class Moved:
    """A terminal's log handler that writes above a live line, and what it wrote to before."""

    handler: logging.StreamHandler[Any]
    stream: Any


def log_above(console: Any) -> list[Moved]:
    """Send terminal log lines above what is live on a console, without those it draws itself."""
    from rich.file_proxy import FileProxy

    moved = []
    for handler in logging.getLogger().handlers:
        # A FileHandler is a StreamHandler too: its stream is no terminal, and None once closed.
        stream = getattr(handler, "stream", None)
        if not isinstance(handler, logging.StreamHandler) or stream is None or stream.closed:
            continue
        if stream.isatty():
            moved.append(Moved(handler, stream))
            handler.setStream(FileProxy(console, stream))
            handler.addFilter(_is_not_drawn)
    return moved


def restore(moved: Sequence[Moved]) -> None:
    """Let log handlers write where they wrote before :func:`log_above`."""
    for one in moved:
        one.handler.setStream(one.stream)
        one.handler.removeFilter(_is_not_drawn)


DRAWN = {"is_drawn": True}
"""``extra`` of a log record that a live console draws itself; log files have it as text."""


def _is_not_drawn(record: logging.LogRecord) -> bool:
    return not getattr(record, "is_drawn", False)
