"""The Theil-Sen slope of memory over steps: how fast a run leaks, robust against single steps.

Plain Python: numpy would take longer to import than a worker takes to start, and 10 MB of the
process that is measured; ``statistics`` brings fractions and decimals.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import combinations

WARM_UP_STEPS = 10  # left out: allocators grow at first without a leak
MOST_POINTS = 64  # pairs grow with the square; more points hardly change the median


def median(values: Iterable[float]) -> float:
    """The median of at least one value."""
    return _middle(sorted(values))


def _middle(ordered: Sequence[float]) -> float:
    half = len(ordered) // 2
    return (ordered[half] + ordered[~half]) / 2


def theil_sen(points: Sequence[tuple[int, float]]) -> float:
    """The Theil-Sen estimator: median of the slopes between all pairs of points.

    Theil 1950, Sen 1968. Its breakdown point is 29 %: so many points may be outliers.

    Arguments:
        points: (step, value), steps strictly increasing, at least two; thinned evenly to at most
            ``2 * MOST_POINTS``.

    Returns:
        The slope in the unit of the values per step.
    """
    every = -(-len(points) // (2 * MOST_POINTS))
    return median((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points[::every], 2))


class SlopeWindow:
    """The Theil-Sen slope over the last ``window`` steps, updated step by step.

    A worker makes a new one at its start and after each reload, so growth is never measured across
    them. The slopes of all pairs are kept sorted: a step costs some tens of microseconds. A window
    longer than ``MOST_POINTS`` steps uses every second, third, ... step.
    """

    def __init__(self, window: int) -> None:
        self._window, self._every = window, -(-window // MOST_POINTS)
        self._room = window // self._every
        self._points: deque[tuple[int, int]] = deque()
        self._slopes: list[float] = []
        self._step = -WARM_UP_STEPS

    def add(self, value: int | None) -> float | None:
        """Add one step's memory in bytes; return bytes per step, None until the window is full.

        A step without a figure (None) counts, and has no slope.
        """
        step, self._step = self._step, self._step + 1
        if value is None:
            return None
        if step >= 0 and step % self._every == 0:
            self._push(step, value)
        return _middle(self._slopes) if self._slopes and self._step >= self._window else None

    def _push(self, step: int, value: int) -> None:
        if len(self._points) == self._room:
            x, y = self._points.popleft()
            for x2, y2 in self._points:
                del self._slopes[bisect_left(self._slopes, (y2 - y) / (x2 - x))]
        for x, y in self._points:
            insort(self._slopes, (value - y) / (step - x))
        self._points.append((step, value))
