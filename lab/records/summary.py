"""The figures of a whole run, from its files alone: the same after a resume as without one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.config.units import GB, MB
from lab.records.rows import read_jsonl
from lab.records.slope import WARM_UP_STEPS, theil_sen

VERSION = 1

Row = dict[str, Any]


def summarise(run_dir: Path) -> dict[str, Any]:
    """Everything of ``summary.json`` that the rows and events hold, however few there are yet."""
    rows = [row for row in read_jsonl(run_dir / "metrics.jsonl") if type(row.get("step")) is int]
    return figures_of(rows, list(read_jsonl(run_dir / "events.jsonl")))


def figures_of(rows: Sequence[Row], events: Sequence[Row]) -> dict[str, Any]:
    """The same from rows and events, in which anything but a row's step may be missing."""
    seconds = _seconds(rows, events)
    busy = seconds["total"] - seconds["startup"]
    process = _column(rows, "memory/process_gb")
    return {
        "steps": rows[-1]["step"] if rows else 0,
        "final_loss": rows[-1].get("loss") if rows else None,
        "tokens_per_second": _ratio(sum(_column(rows, "tokens")), seconds["train"]),
        "peak_process_gb": max(process, default=None),
        "peak_mlx_gb": max(_column(rows, "memory/peak_gb"), default=None),
        "mean_process_gb": _ratio(sum(process), len(process)),
        "slope_mb_per_step": _slope(rows),
        "reloads": Counter(str(e.get("reason")) for e in events if e.get("event") == "reload"),
        "seconds": seconds,
        "overhead_fraction": _ratio(seconds["reload"] + seconds["checkpoint"], busy),
    }


def _seconds(rows: Sequence[Row], events: Sequence[Row]) -> dict[str, float]:
    """Where the run's time went; a checkpoint written for a reload counts as that reload's."""
    parts = [e.get("seconds") or {} for e in events if e.get("event") == "reload"]
    saved = [e for e in events if e.get("event") == "checkpoint" and not e.get("for_reload")]
    first = rows[0] if rows else {}
    return {
        "train": sum(_column(rows, "step_seconds")),
        "reload": sum(max(part, 0.0) for of_one in parts for part in of_one.values()),
        "checkpoint": sum(_column(saved, "seconds")),
        "startup": (first.get("time") or 0.0) - (first.get("step_seconds") or 0.0),
        "total": max(_column((*rows[-1:], *events[-1:]), "time"), default=0.0),
    }


def _slope(rows: Sequence[Row]) -> float | None:
    memory = [(row["step"], row.get("memory/process_gb")) for row in rows[WARM_UP_STEPS:]]
    points = [(step, gb * GB / MB) for step, gb in memory if gb is not None]
    return theil_sen(points) if len(points) > 1 else None


def _column(rows: Sequence[Row], key: str) -> list[float]:
    return [row[key] for row in rows if row.get(key) is not None]


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
