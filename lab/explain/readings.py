"""A session's memory over its steps, and how fast each figure grows.

Plain numbers in arrays: a list of tuples would itself be what a census finds growing.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from lab.records.slope import median, theil_sen

MOST = 512  # readings; there every second of the older half goes, so that the newest are all kept
FIGURES = ("active", "cache", "process")


@dataclass(frozen=True)
class Slopes:
    """Growth of MLX's counters and of the process in bytes a step; None where unknown.

    Attributes:
        error: standard error of the process's, of that part of it that MLX does not count.
    """

    active: float
    cache: float
    process: float | None
    error: float = 0.0

    def without_cache(self, *, shared: bool) -> Slopes:
        """What grows beside a cache that only fills until it is cleared.

        Arguments:
            shared: the process's memory holds the cache.
        """
        process = self.process
        if process is not None and shared:
            process -= max(self.cache, 0.0)
        return Slopes(self.active, 0.0, process, self.error)


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
        steps = self._steps[first:]
        columns = [column[first:] for column in self._columns.values()]
        active, cache, process = (
            theil_sen(list(zip(steps, column, strict=True))) for column in columns
        )
        if -1 in self._columns["process"]:
            return Slopes(active, cache, None)
        outside = [all_ - a - c for a, c, all_ in zip(*columns, strict=True)]
        return Slopes(active, cache, process, _error(steps, outside))


def _error(steps: Sequence[int], values: Sequence[int]) -> float:
    """Standard error of a slope through these readings, were they independent of each other."""
    slope = theil_sen(list(zip(steps, values, strict=True)))
    left = [value - slope * step for step, value in zip(steps, values, strict=True)]
    middle = median(left)
    deviation = 1.5 * median([abs(value - middle) for value in left])  # of normal ones
    spread = sum((step - sum(steps) / len(steps)) ** 2 for step in steps)
    return deviation / spread**0.5
