"""What a run's curve alone says: whether memory grew, how fast, which counter shows it.

Pure functions of the rows of ``metrics.jsonl``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import Any

from lab.config.units import GB, MB
from lab.explain.advice import curve_advice, steady, too_short
from lab.explain.explanation import EXPLAIN_VERSION, expected_remedy
from lab.explain.kinds import KINDS, Rates, largest, split
from lab.records.slope import WARM_UP_STEPS, median

BLOCKS = 20  # of equal length; memory is lowest between steps, so each block counts by its minimum
LEAST_STEPS = 2 * BLOCKS
Z, CONFIDENCE = 3.29, 0.999  # one-sided, of the normal distribution: two curves, 0.9995 each
MATERIAL_MB = 1.0  # that a run must grow by in all: allocators step by less
MOST = 2.0**62  # of a step or a figure in GB: a larger one is none of the lab's


@dataclass(frozen=True)
class Bound:
    """A slope in bytes a step, with bounds that each hold with 99.95 % confidence."""

    slope: float
    low: float
    high: float
    steps: int

    @property
    def grows(self) -> bool:
        return self.low > 0 and self.slope * self.steps >= MATERIAL_MB * MB


def bound(points: Sequence[tuple[int, float]]) -> Bound | None:
    """The Theil-Sen slope of block minima and its confidence interval; None for too few points.

    Blocks take the autocorrelation out and minima the spikes; the interval is Sen's (1968), from
    the variance of Kendall's S, so no distribution is assumed.

    Arguments:
        points: (step, bytes), steps increasing, warm-up left out.
    """
    if len(points) < LEAST_STEPS:
        return None
    size = len(points) // BLOCKS
    blocks = [points[i * size : (i + 1) * size] for i in range(BLOCKS)]
    lowest = [(median(x for x, _ in block), min(y for _, y in block)) for block in blocks]
    slopes = sorted((y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(lowest, 2))
    spread = Z * math.sqrt(BLOCKS * (BLOCKS - 1) * (2 * BLOCKS + 5) / 18)
    first = max(0, int((len(slopes) - spread) / 2))
    return Bound(
        slope=median(slopes),
        low=slopes[first],
        high=slopes[len(slopes) - 1 - first],
        steps=points[-1][0] - points[0][0] + 1,
    )


def explain_curve(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of ``explain.json`` as far as a run's rows tell it: no holder, nothing measured.

    The longest stretch between two reloads counts, without its warm-up. What MLX holds is growth
    while the process reuses freed memory too, and on CUDA it is no memory of the process.
    """
    stretch = longest_stretch(rows)
    curves = _points(stretch, "process"), _points(stretch, "active", "cache")
    known = [found for points in curves if (found := bound(points)) is not None]
    memory = next((curve for curve in known if curve.grows), next(iter(known), None))
    result: dict[str, Any] = {
        "version": EXPLAIN_VERSION,
        "step": None,
        "grows": False,
        "mb_per_step": None,
        "confidence": None,
        "kinds": [],
        "kind": None,
        "holder": None,
        "holders": [],
        "remedies": [],
        "remedy": "none",
        "remedy_is": "expected",
    }
    if memory is None:
        finding, advice = too_short(max(map(len, curves)), LEAST_STEPS, WARM_UP_STEPS)
        return result | {"finding": finding, "advice": advice}
    result |= {"mb_per_step": memory.slope / MB, "confidence": CONFIDENCE}
    if not memory.grows:
        high = max(memory.high, 0.0) / MB
        finding, advice = steady(memory.slope / MB, memory.steps, high, CONFIDENCE)
        return result | {"finding": finding, "advice": advice}
    kinds = split(_rates(stretch))
    kind = largest(kinds)
    return result | {
        "grows": True,
        "mb_per_step": sum(kinds.values()) / MB,
        "kinds": [{"kind": name, "mb_per_step": kinds[name] / MB} for name in KINDS],
        "kind": kind,
        "remedy": expected_remedy(kind, None),
        "advice": curve_advice(kind),
    }


def longest_stretch(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of the longest stretch without a reload or another worker, warm-up left out."""

    def session(row: Mapping[str, Any]) -> tuple[Any, Any]:
        return row.get("reload/generation"), row.get("reload/count")

    stretches = [list(group)[WARM_UP_STEPS:] for _, group in groupby(rows, session)]
    return max(stretches, key=len, default=[])


def _points(rows: Sequence[Mapping[str, Any]], *names: str) -> list[tuple[int, float]]:
    """Step and bytes of one or more counters together, where all of them were read."""
    points: list[tuple[int, float]] = []
    last = -1
    for row in rows:
        step, values = row["step"], [row.get(f"memory/{name}_gb") for name in names]
        known = [v for v in values if isinstance(v, int | float) and abs(v) < MOST]
        if last < step < MOST and len(known) == len(names):
            points.append((step, sum(known) * GB))
            last = step
    return points


def _rates(rows: Sequence[Mapping[str, Any]]) -> Rates:
    slopes = {name: bound(_points(rows, name)) for name in ("process", "active", "cache")}
    process, active, cache = (s.slope if s else None for s in slopes.values())
    return Rates(
        process=process,
        active=active or 0.0,
        cache=cache or 0.0,
        visible=active or 0.0,  # who holds active memory a curve does not say
        shared=_is_shared(rows),
    )


def _is_shared(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether MLX's memory is the process's; on CUDA it is often more than all of the process."""
    pairs = [(row.get("memory/active_gb"), row.get("memory/process_gb")) for row in rows]
    return all(not (a is not None and p is not None and a > p) for a, p in pairs)
