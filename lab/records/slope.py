"""The robust slope of memory over steps: how fast a run leaks, whatever single steps do.

Plain Python: numpy would take longer to import than a worker takes to start, and 10 MB of the
process that is measured; ``statistics`` brings fractions and decimals.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import combinations

WARM_UP_STEPS = 10  # allocators settle: their first growth is not a leak
MOST_POINTS = 64  # pairs grow with the square; more points move the median no further


def median(values: Iterable[float]) -> float:
    """The middle one of at least one value, or the mean of the two that are."""
    return _middle(sorted(values))


def _middle(ordered: Sequence[float]) -> float:
    half = len(ordered) // 2
    return (ordered[half] + ordered[~half]) / 2


def theil_sen(points: Sequence[tuple[int, float]]) -> float:
    """Median of the slopes between all pairs of points (Theil 1950, Sen 1968).

    Up to 29 % of the points may lie anywhere without moving it far.

    Arguments:
        points: (step, value), steps strictly increasing, at least two; many are thinned evenly.

    Returns:
        The slope in the unit of the values per step.
    """
    every = -(-len(points) // (2 * MOST_POINTS))
    return median((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(points[::every], 2))


class SlopeWindow:
    """The slope over the last ``window`` steps since a worker's start or its last reload.

    A new one is made at each of these, so growth is never measured across them. The slopes of all
    pairs are kept sorted, so that a step costs some tens of microseconds. A window of more than
    ``MOST_POINTS`` steps takes every second, third, ... of them.
    """

    def __init__(self, window: int) -> None:
        self._window, self._every = window, -(-window // MOST_POINTS)
        self._room = window // self._every
        self._points: deque[tuple[int, int]] = deque()
        self._slopes: list[float] = []
        self._step = -WARM_UP_STEPS

    def add(self, value: int) -> float | None:
        """Take one step's memory in bytes; the slope in bytes per step once the window is full."""
        step, self._step = self._step, self._step + 1
        if step >= 0 and step % self._every == 0:
            self._push(step, value)
        return _middle(self._slopes) if self._step >= self._window else None

    def _push(self, step: int, value: int) -> None:
        if len(self._points) == self._room:
            x, y = self._points.popleft()
            for x2, y2 in self._points:
                del self._slopes[bisect_left(self._slopes, (y2 - y) / (x2 - x))]
        for x, y in self._points:
            insort(self._slopes, (value - y) / (step - x))
        self._points.append((step, value))
