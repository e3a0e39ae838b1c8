"""The figures of a whole run, from its files alone: the same after a resume as without one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from lab.slope import WARM_UP_STEPS, theil_sen
from lab.tracking.rows import read_jsonl

VERSION = 1

Row = dict[str, Any]


def summarise(run_dir: Path) -> dict[str, Any]:
    """Everything of ``summary.json`` that the rows and events hold."""
    rows, events = (list(read_jsonl(run_dir / f"{name}.jsonl")) for name in ("metrics", "events"))
    seconds = _seconds(rows, events)
    busy = seconds["total"] - seconds["startup"]
    process = _column(rows, "memory/process_gb")
    return {
        "steps": rows[-1]["step"] if rows else 0,
        "final_loss": rows[-1]["loss"] if rows else None,
        "tokens_per_second": _ratio(sum(_column(rows, "tokens")), seconds["train"]),
        "peak_process_gb": max(process, default=None),
        "peak_mlx_gb": max(_column(rows, "memory/peak_gb"), default=None),
        "mean_process_gb": _ratio(sum(process), len(process)),
        "slope_mb_per_step": _slope(rows),
        "reloads": Counter(e["reason"] for e in events if e["event"] == "reload"),
        "seconds": seconds,
        "overhead_fraction": _ratio(seconds["reload"] + seconds["checkpoint"], busy),
    }


def _seconds(rows: list[Row], events: list[Row]) -> dict[str, float]:
    """Where the run's time went; a checkpoint written for a reload counts as that reload's."""
    reloads = [e["seconds"] for e in events if e["event"] == "reload"]
    saved = [e for e in events if e["event"] == "checkpoint" and "seconds" in e]
    return {
        "train": sum(_column(rows, "step_seconds")),
        "reload": sum(max(part, 0.0) for parts in reloads for part in parts.values()),
        "checkpoint": sum(e["seconds"] for e in saved if not e["for_reload"]),
        "startup": rows[0]["time"] - rows[0]["step_seconds"] if rows else 0.0,
        "total": max((r["time"] for r in (*rows[-1:], *events[-1:])), default=0.0),
    }


def _slope(rows: list[Row]) -> float | None:
    points = [(r["step"], r["memory/process_gb"] * 1024) for r in rows[WARM_UP_STEPS:]]
    return theil_sen(points) if len(points) > 1 else None


def _column(rows: list[Row], key: str) -> list[float]:
    return [row[key] for row in rows if row.get(key) is not None]


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
