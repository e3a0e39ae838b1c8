"""A run's curves: read from its files, thinned and smoothed for drawing."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from pathlib import Path

from lab.tracking.rows import read_jsonl

BINS = 600  # of two points each: about the pixels that a curve has

Points = list[tuple[float, float]]


@dataclass
class Curves:
    """What is drawn of a run: points (step, value) of each key, and its reloads (step, reason)."""

    points: dict[str, Points] = field(default_factory=dict)
    reloads: list[tuple[int, str]] = field(default_factory=list)

    def __getitem__(self, key: str) -> Points:
        return self.points.get(key, [])


KEYS = (
    "memory/process_gb",
    "memory/active_gb",
    "memory/cache_gb",
    "memory/peak_gb",
    "loss",
    "val_loss",
)


def read_curves(run_dir: Path) -> Curves:
    """The curves in a run's files, which may be partial or still growing; nulls are left out."""
    curves = Curves({key: [] for key in KEYS})
    for row in read_jsonl(run_dir / "metrics.jsonl"):
        step = row.get("step")
        for key in KEYS:
            value = row.get(key)
            if isinstance(step, int) and isinstance(value, int | float) and math.isfinite(value):
                curves.points[key].append((step, value))
    for event in read_jsonl(run_dir / "events.jsonl"):
        step = event.get("step")
        if event.get("event") == "reload" and isinstance(step, int):
            curves.reloads.append((step, str(event.get("reason"))))
    return curves


def thinned(points: Points, bins: int = BINS) -> Points:
    """The lowest and highest point of each bin of equal length, so that no spike is lost."""
    if len(points) <= 2 * bins:
        return points
    size = len(points) / bins
    kept = []
    for number in range(bins):
        part = points[int(number * size) : int((number + 1) * size)]
        ends = {min(part, key=_value), max(part, key=_value)}
        kept += sorted(ends)
    return kept


def smoothed(points: Points) -> Points:
    """The mean of a fortieth of the run around each point, less at its ends: it never lags."""
    values = [value for _, value in points]
    sums = [0.0, *itertools.accumulate(values)]
    half, last = max(1, len(points) // 80), len(points) - 1
    result = []
    for i, (step, _) in enumerate(points):
        reach = min(half, i, last - i)
        low, high = i - reach, i + reach + 1
        result.append((step, (sums[high] - sums[low]) / (high - low)))
    return result


def _value(point: tuple[float, float]) -> float:
    return point[1]
