"""What a sweeper makes small: one figure of a run that has ended."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from lab.config.keys import Config
from lab.records.rows import metric_gb


def value(
    config: Config, summary: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]
) -> float | None:
    """The objective of a completed run; the smaller the better.

    ``throughput`` is tokens a second of all the run's time but its start, negative, as long as its
    peak memory stayed within ``objective.memory_limit_gb``; above it the excess, positive: worse
    than any run within it, and the less so the nearer it came. Peak memory is what
    ``reload.metric`` measures.

    Arguments:
        rows: those of the run's ``metrics.jsonl``.

    Returns:
        None where the run has no such figure, as after a loss that was not finite.
    """
    match config.objective.name:
        case "final_loss":
            found = summary.get("final_loss")
        case "overhead":
            found = summary.get("overhead_fraction")
        case "peak_memory":
            found = _peak_gb(config, rows)
        case _:
            peak, limit = _peak_gb(config, rows), config.objective.memory_limit_gb
            speed = _tokens_per_second(summary)
            if peak is None or speed is None:
                return None
            found = peak / limit if peak > limit else -speed
    return found if isinstance(found, int | float) and math.isfinite(found) else None


def _tokens_per_second(summary: Mapping[str, Any]) -> float | None:
    """Reloads and checkpoints count, which the summary's own figure leaves out."""
    speed, seconds = summary.get("tokens_per_second"), summary.get("seconds") or {}
    if speed is None or not {"train", "total", "startup"} <= seconds.keys():
        return None
    busy = seconds["total"] - seconds["startup"]
    return speed * seconds["train"] / busy if busy else None


def _peak_gb(config: Config, rows: Iterable[Mapping[str, Any]]) -> float | None:
    figures = (metric_gb(row, config.reload.metric) for row in rows)
    return max((gb for gb in figures if gb is not None), default=None)
