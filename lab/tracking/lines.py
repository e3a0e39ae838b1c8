"""Progress of a run as plain lines, and what a line of it says."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TextIO

from lab.config.keys import Config
from lab.records.rows import metric_gb
from lab.tracking.text import change, duration, number, part_of

PLAIN_LINES = 20  # a run, besides its events
# Suppressed on writing: the reader of a pipe may leave, a terminal be closed; training goes on.
STREAM_CLOSED = (OSError, ValueError)
# What a line does without where the terminal is too narrow, in this order.
DISPENSABLE = ("reloads", "speed", "validation", "left")

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


class PlainProgress:
    """Print one line at the start, one every twentieth of the steps, one for each shown event."""

    def __init__(self, config: Config, stream: TextIO) -> None:
        self._stream = stream
        self._steps = config.train.steps
        self._metric = config.reload.metric
        self._budget_gb = config.memory.budget_gb
        self._first: tuple[int, float] | None = None
        self._replay_first: tuple[int, float] | None = None
        self._validated: tuple[int, object] | None = None
        self._twentieth = -1
        self._seen: set[str] = set()

    def log(self, row: Mapping[str, Any]) -> None:
        if "val_loss" in row:
            self._validated = (row["step"], row["val_loss"])
        self._replay_first = None
        if self._first is None:
            self._first = (row["step"], row["time"])
        self._show(row["step"], self._status(row))

    def replay(self, row: Mapping[str, Any], last_step: int) -> None:
        """Show a step that is executed again, of those up to ``last_step``."""
        if self._replay_first is None:
            self._replay_first, self._twentieth = (row["step"], row["time"]), -1
        status = self._replay_status(row, self._replay_first, last_step)
        self._show(row["step"], status)
        if row["step"] == last_step:
            self._twentieth = -1

    def event(self, event: Mapping[str, Any]) -> None:
        name = str(event.get("event"))
        if name in ("worker_died", "worker_started"):
            self._replay_first = None
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

    def _show(self, step: int, status: Mapping[str, str]) -> None:
        """Show how far the run is, if that is due; ``status`` has the line's parts by name."""
        twentieth = step * PLAIN_LINES // self._steps
        if twentieth != self._twentieth:
            self._twentieth = twentieth
            self._validated = None  # each is told once
            self._say(f"step {step:>{len(str(self._steps))}}/{self._steps}  " + joined(status))

    def _say(self, line: str) -> None:
        with suppress(*STREAM_CLOSED):
            print(line, file=self._stream, flush=True)

    def _status(self, row: Mapping[str, Any]) -> dict[str, str]:
        assert self._first is not None
        parts = {
            "loss": f"loss {number(row.get('loss'), '.4f')}",
            "validation": self._validation(row["step"]),
            "speed": f"{number(row.get('tokens_per_second'), ',.0f')} tok/s",
            "memory": self._memory(row),
            "reloads": f"reloads {row.get('reload/count') or 0}",
            "left": f"{duration(_seconds_left(row, self._first, self._steps))} left",
        }
        return parts if self._validated is not None else without(parts, "validation")

    def _validation(self, step: int) -> str:
        """The latest validation loss, with its step where that is an earlier one."""
        of_step, loss = self._validated or (step, None)
        return f"val {number(loss, '.4f')}" + f" (step {of_step})" * (of_step != step)

    def _replay_status(
        self, row: Mapping[str, Any], first: tuple[int, float], last_step: int
    ) -> dict[str, str]:
        return {
            "replay": f"replaying {first[0]} to {last_step}",
            "speed": f"{number(row.get('tokens_per_second'), ',.0f')} tok/s",
            "memory": self._memory(row),
            "left": f"{duration(_seconds_left(row, first, last_step))} left to replay",
        }

    def _memory(self, row: Mapping[str, Any]) -> str:
        return f"{self._metric} {part_of(metric_gb(row, self._metric), self._budget_gb)}"


def fitting(status: Mapping[str, str], width: int) -> str:
    """The parts of a line that go into a width; the most dispensable are left out first."""
    for name in DISPENSABLE:
        if len(joined(status)) <= width:
            break
        status = without(status, name)
    return joined(status)


def joined(status: Mapping[str, str]) -> str:
    """The parts of a line, as one."""
    return "  ".join(status.values())


def without(status: Mapping[str, str], name: str) -> dict[str, str]:
    """The parts of a line but one."""
    return {key: text for key, text in status.items() if key != name}


def _seconds_left(row: Mapping[str, Any], first: tuple[int, float], last_step: int) -> float | None:
    """Estimate from the pace since the first row, reloads and checkpoints included.

    Arguments:
        first: step and time of that row.
    """
    step, began = first
    done = row["step"] - step
    return (row["time"] - began) / done * (last_step - row["step"]) if done > 0 else None


def event_line(event: Mapping[str, Any], metric: str) -> str | None:
    """Format an event as one line; None for an event that is only in the file.

    Arguments:
        metric: the memory figure shown for a reload (``reload.metric``).
    """
    name, step = event.get("event"), event.get("step")
    if name in ("reload", "remedy"):
        figures = (metric_gb(event.get(when) or {}, metric) for when in ("before", "after"))
        changed = change(*figures)
        if name == "remedy":
            what = f"{event.get('remedy')} after step {step}"
            return f"{what}: {changed}; later ones go unmentioned"
        seconds = sum(max(part, 0.0) for part in (event.get("seconds") or {}).values())
        how = f"{event.get('reason')}, {event.get('method')}"
        return f"reload after step {step} ({how}): {changed} in {seconds:.2f} s"
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
