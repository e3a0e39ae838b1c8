"""Curves as arrays: thinned and smoothed for drawing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 600  # of two points each: about the pixels that a curve has

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Values over steps or over time: two arrays of shape (points,) without NaN."""

    x: Values
    y: Values

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, chosen: Any) -> Curve:
        return Curve(self.x[chosen], self.y[chosen])


def thinned(curve: Curve, bins: int = BINS) -> Curve:
    """Min-max decimation: the lowest and highest point of each bin, so that no spike is lost."""
    return curve if len(curve) <= 2 * bins else curve[extremes(curve.y, bins)]


def extremes(values: Values, bins: int) -> NDArray[np.intp]:
    """Indices of the first minimum and the first maximum of each bin, sorted.

    Arguments:
        values: shape (points,), without NaN.
        bins: of equal length, at most as many as there are points.
    """
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
    """Centred moving average over a fortieth of the run.

    The window shrinks towards both ends and stays symmetric, so that the curve never lags.
    """
    sums = np.concatenate(([0.0], np.cumsum(values)))
    at = np.arange(len(values))
    half = max(1, len(values) // 80)
    reach = np.minimum(half, np.minimum(at, len(values) - 1 - at))
    return (sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1)


def window_sums(values: Values) -> Values:
    """Sums over a centred window of a fortieth of the run, cut at both ends; NaN counts as 0."""
    sums = np.concatenate(([0.0], np.cumsum(np.nan_to_num(values))))
    at, half = np.arange(len(values)), max(1, len(values) // 80)
    return sums[np.minimum(at + half + 1, len(values))] - sums[np.maximum(at - half, 0)]
