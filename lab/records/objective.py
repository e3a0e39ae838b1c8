"""The objective of a sweep: one figure of a completed run, to be minimised."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from lab.config.keys import Config
from lab.records.rows import metric_gb


def value(
    config: Config, summary: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]
) -> float | None:
    """The objective of a completed run; smaller is better.

    ``throughput`` is minus the tokens per second over the whole run without its startup, while
    peak memory is within ``objective.memory_limit_gb``. Over the limit the score is peak / limit
    (> 0): it ranks below every run within it, the closest first. Peak memory is the maximum of the
    figure named by ``reload.metric``, in GB of 2^30 bytes. ``time_over_budget`` is in seconds,
    not a share of the run: time above the limit is no better in a slower run.

    Arguments:
        rows: of the run's ``metrics.jsonl``.

    Returns:
        None if the run lacks the figure, e.g. a final loss that was not finite.
    """
    match config.objective.name:
        case "final_loss":
            found = summary.get("final_loss")
        case "overhead":
            found = summary.get("overhead_fraction")
        case "peak_memory":
            found = _peak_gb(config, rows)
        case "reloads":
            counts = summary.get("reloads")
            found = sum(counts.values()) if isinstance(counts, Mapping) else None
        case "time_over_budget":
            found = _seconds_over_limit(config, rows)
        case _:
            peak, limit = _peak_gb(config, rows), config.objective.memory_limit_gb
            speed = _tokens_per_second(summary)
            if peak is None or speed is None:
                return None
            found = peak / limit if peak > limit else -speed
    return found if isinstance(found, int | float) and math.isfinite(found) else None


def _tokens_per_second(summary: Mapping[str, Any]) -> float | None:
    """Speed with the time of reloads and checkpoints, which the summary's own figure leaves out."""
    speed, seconds = summary.get("tokens_per_second"), summary.get("seconds") or {}
    if speed is None or not {"train", "total", "startup"} <= seconds.keys():
        return None
    busy = seconds["total"] - seconds["startup"]
    return speed * seconds["train"] / busy if busy else None


def _seconds_over_limit(config: Config, rows: Iterable[Mapping[str, Any]]) -> float | None:
    """Seconds from the row before to each row above the limit; None if no row has a figure.

    Of the first row only its step counts: what came before it took less memory.
    """
    over, before = 0.0, None
    for row in rows:
        gb, now = metric_gb(row, config.reload.metric), row.get("time")
        if gb is None or now is None:
            continue
        taken = row.get("step_seconds", 0.0) if before is None else now - before
        over += taken * (gb > config.objective.memory_limit_gb)
        before = now
    return None if before is None else over


def _peak_gb(config: Config, rows: Iterable[Mapping[str, Any]]) -> float | None:
    figures = (metric_gb(row, config.reload.metric) for row in rows)
    return max((gb for gb in figures if gb is not None), default=None)
