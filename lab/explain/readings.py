"""A session's memory over its steps, and how fast each figure grows.

Plain numbers in arrays: a list of tuples would itself be what a census finds growing.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from lab.records.slope import theil_sen

MOST = 512  # readings; there every second of the older half goes, so that the newest are all kept
FIGURES = ("active", "cache", "process")


@dataclass(frozen=True)
class Slopes:
    """Growth of MLX's counters and of the process in bytes a step; None where unknown."""

    active: float
    cache: float
    process: float | None

    def without_cache(self, *, shared: bool) -> Slopes:
        """What grows beside a cache that only fills until it is cleared.

        Arguments:
            shared: the process's memory holds the cache.
        """
        process = self.process
        if process is not None and shared:
            process -= max(self.cache, 0.0)
        return Slopes(self.active, 0.0, process)


class Readings:
    """Memory after each step of one session."""

    def __init__(self) -> None:
        self._steps = array("q")
        self._columns = {name: array("q") for name in FIGURES}

    def add(self, step: int, *, active: int, cache: int, process: int | None) -> None:
        """Add the bytes after a step; a process's that are not known make its slope unknown."""
        self._steps.append(step)
        figures = (active, cache, -1 if process is None else process)
        for name, value in zip(FIGURES, figures, strict=True):
            self._columns[name].append(value)
        if len(self._steps) >= MOST:
            for column in (self._steps, *self._columns.values()):
                del column[: MOST // 2 : 2]

    def slopes(self, start: int) -> Slopes:
        """Growth from a step on, robust against single steps; two readings at least."""
        first = next((i for i, step in enumerate(self._steps) if step >= start), 0)
        first = min(first, len(self._steps) - 2)
        active, cache, process = (
            theil_sen(list(zip(self._steps[first:], column[first:], strict=True)))
            for column in self._columns.values()
        )
        return Slopes(active, cache, None if -1 in self._columns["process"] else process)
