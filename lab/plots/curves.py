"""A run's curves: read from its files, thinned and smoothed for drawing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab.records.rows import decode, read_jsonl

BINS = 600  # of two points each: about the pixels that a curve has

FIGURES = ("process", "active", "cache", "peak")
KEYS = (
    "time",
    "loss",
    "val_loss",
    "tokens",
    "step_seconds",
    "tokens_per_second",
    *(f"memory/{figure}_gb" for figure in FIGURES),
)

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Values over steps, or over time; none of them is missing."""

    x: Values
    y: Values

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, chosen: Any) -> Curve:
        return Curve(self.x[chosen], self.y[chosen])


@dataclass(frozen=True)
class Columns:
    """What is drawn of a run's rows.

    Attributes:
        values: by key, NaN where a row has none; ``step`` and each of ``KEYS``, of one length.
    """

    values: Mapping[str, Values]

    def __len__(self) -> int:
        return len(self.values["step"])

    def __getitem__(self, key: str) -> Values:
        return self.values[key]

    def curve(self, key: str, over: str = "step") -> Curve:
        """The points that have both values."""
        x, y = self.values[over], self.values[key]
        there = ~(np.isnan(x) | np.isnan(y))
        return Curve(x[there], y[there])

    def smooth(self, key: str) -> Values:
        """The values smoothed; where there is none, there still is none."""
        values = self.values[key].copy()
        there = ~np.isnan(values)
        values[there] = smoothed(values[there])
        return values

    def speed(self) -> Values:
        """Tokens per second of training around each step, over a fortieth of the run."""
        tokens, seconds = (_summed(self.values[key]) for key in ("tokens", "step_seconds"))
        with np.errstate(divide="ignore", invalid="ignore"):
            speed = tokens / seconds
        return np.where(np.isfinite(speed), speed, np.nan)


def _summed(values: Values) -> Values:
    """The sum of a fortieth of the run around each value, of its missing ones nothing."""
    sums = np.concatenate(([0.0], np.cumsum(np.nan_to_num(values))))
    at, half = np.arange(len(values)), max(1, len(values) // 80)
    return sums[np.minimum(at + half + 1, len(values))] - sums[np.maximum(at - half, 0)]


def read_columns(run_dir: Path) -> Columns:
    """The columns in a run's files, which may be partial, damaged or still growing."""
    rows = [row for row in read_jsonl(run_dir / "metrics.jsonl") if type(row.get("step")) is int]
    return Columns(
        {key: np.array([_number(row.get(key)) for row in rows], float) for key in ("step", *KEYS)}
    )


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:
        return math.nan


def read_reloads(run_dir: Path) -> Iterator[dict[str, Any]]:
    """The reload events of a run, each with its step, whatever else they hold."""
    try:
        file = (run_dir / "events.jsonl").open("rb")
    except FileNotFoundError:
        return
    with file:
        # Most events are others, and reading them would take most of the time.
        for event in map(decode, (line for line in file if b'"reload"' in line)):
            if event and event.get("event") == "reload" and type(event.get("step")) is int:
                yield event


def thinned(curve: Curve, bins: int = BINS) -> Curve:
    """The lowest and highest point of each bin of equal length, so that no spike is lost."""
    return curve if len(curve) <= 2 * bins else curve[extremes(curve.y, bins)]


def extremes(values: Values, bins: int) -> NDArray[np.intp]:
    """Where the lowest and the highest value of each bin are, in order; bins are never empty."""
    starts = np.arange(bins) * len(values) // bins
    lengths = np.diff(np.append(starts, len(values)))
    number = np.repeat(np.arange(bins), lengths)
    found = []
    for best in (np.minimum, np.maximum):
        ends = best.reduceat(values, starts)
        hits = np.flatnonzero(values == ends[number])
        found.append(hits[np.unique(number[hits], return_index=True)[1]])
    return np.unique(np.concatenate(found))


def smoothed(values: Values) -> Values:
    """The mean of a fortieth of the run around each value, less at its ends: it never lags."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    at = np.arange(len(values))
    half = max(1, len(values) // 80)
    reach = np.minimum(half, np.minimum(at, len(values) - 1 - at))
    return (sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1)
