"""What all charts of a comparison share: units, ranges, and the limits that are drawn."""

from __future__ import annotations

import numpy as np

from lab.compare.comparison import Comparison
from lab.compare.memory import FIGURES, Limit, limits_of, threshold_of

TIME_UNITS = {"s": 1, "min": 60, "h": 3600}
LOSSES = ("every step", "smoothed", "validation")
NEAR = 1.5  # a limit further above the highest curve would flatten it


def time_unit(comparison: Comparison) -> str:
    """The time unit of all charts, from the longest run."""
    seconds = longest(comparison, "time")
    return "s" if seconds < 600 else "min" if seconds < 4 * 3600 else "h"


def first_loss(comparison: Comparison) -> str:
    return LOSSES[1] if comparison.is_long else LOSSES[0]


def longest(comparison: Comparison, key: str) -> float:
    """The largest step or time (s) over all runs; 0 without rows."""
    columns = [entry.run.columns[key] for entry in comparison.entries]
    return max((float(np.nanmax(values, initial=0.0)) for values in columns), default=0.0)


def near_limits(comparison: Comparison, figure: str) -> tuple[list[Limit], list[Limit]]:
    """The limits on a figure: those near enough to be drawn, and those far above all curves."""
    runs = [entry.run for entry in comparison.entries]
    held = dict.fromkeys(
        limit
        for run in runs
        for limit in (threshold_of(run), *limits_of(run))
        if limit is not None and limit.figure == figure
    )
    ranges = (entry.range(figure) for entry in comparison.entries)
    highest = max((known[1] for known in ranges if known is not None), default=0.0)
    ordered = sorted(held, key=lambda limit: limit.gb)
    near = [limit for limit in ordered if limit.gb <= NEAR * highest]
    return near, ordered[len(near) :]


def memory_ranges(comparison: Comparison) -> dict[str, tuple[float, float]]:
    """Range of the memory axes in GB, by figure; wide enough that 1 % differences look small."""
    found = {}
    for figure in FIGURES:
        ranges = [r for entry in comparison.entries if (r := entry.range(figure)) is not None]
        low, high = (min(r[0] for r in ranges), max(r[1] for r in ranges)) if ranges else (0, 1)
        bounds = [limit.gb for limit in near_limits(comparison, figure)[0]]
        found[figure] = (0.9 * min([low, *bounds]), 1.05 * max([high, *bounds]) or 1)
    return found


def axis_ends(comparison: Comparison) -> dict[str, float]:
    """Ends of the horizontal axis, in steps and in the time unit: the longest run and 1 %."""
    time = longest(comparison, "time") / TIME_UNITS[time_unit(comparison)]
    return {"step": 1.01 * longest(comparison, "step") or 1, "time": 1.01 * time or 1}
