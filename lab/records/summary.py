"""The figures of ``summary.json``, from a run's files alone: a resume does not change them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lab.config.units import GB, MB
from lab.records.peak import memory_at_peak
from lab.records.rows import read_jsonl, read_rows
from lab.records.slope import WARM_UP_STEPS, theil_sen

SUMMARY_VERSION = 1

Row = dict[str, Any]


def summarise(run_dir: Path) -> dict[str, Any]:
    """The figures of ``summary.json`` from the rows and events of a run that this lab wrote."""
    return _figures_of(list(read_rows(run_dir)), list(read_jsonl(run_dir / "events.jsonl")))


def figures_so_far(run_dir: Path, rows: Iterable[Row]) -> tuple[dict[str, Any], str]:
    """The figures of a run without a summary, from files that may be damaged or still growing.

    Arguments:
        rows: of its ``metrics.jsonl``, as :func:`lab.records.rows.read_rows` gives them. A row
            whose step is not above the one before is left out.

    Returns:
        The figures, empty if a row holds what no run writes; and what is left out because a file
        is damaged: one line, empty if nothing is.
    """
    increasing = list(_increasing(rows))
    damage = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError)
    with suppress(*damage):
        return _figures_of(increasing, list(read_jsonl(run_dir / "events.jsonl"))), ""
    with suppress(*damage):
        figures = _figures_of(increasing, [])
        return figures, "events.jsonl is damaged: reloads and overhead are not counted"
    return {}, "metrics.jsonl is damaged: it gives no figures"


def _increasing(rows: Iterable[Row]) -> Iterator[Row]:
    newest = 0
    for row in rows:
        if row["step"] > newest:  # a damaged file may hold a step twice
            newest = row["step"]
            yield row


def _figures_of(rows: Sequence[Row], events: Sequence[Row]) -> dict[str, Any]:
    """Figures of rows and events, in which anything but a row's step may be missing."""
    seconds = _seconds(rows, events)
    busy = seconds["total"] - seconds["startup"]
    process = _column(rows, "memory/process_gb")
    return {
        "steps": rows[-1]["step"] if rows else 0,
        "final_loss": rows[-1].get("loss") if rows else None,
        "final_val_loss": next((r["val_loss"] for r in reversed(rows) if "val_loss" in r), None),
        "tokens_per_second": _ratio(sum(_column(rows, "tokens")), seconds["train"]),
        "peak_process_gb": max(process, default=None),
        "peak_mlx_gb": max(_column(rows, "memory/peak_gb"), default=None),
        "memory_at_peak": memory_at_peak(rows, events),
        "mean_process_gb": _ratio(sum(process), len(process)),
        "slope_mb_per_step": _slope(rows),
        "reloads": Counter(str(e.get("reason")) for e in events if e.get("event") == "reload"),
        "remedies": Counter(str(e.get("remedy")) for e in events if e.get("event") == "remedy"),
        "seconds": seconds,
        "overhead_fraction": _ratio(
            seconds["reload"] + seconds["remedy"] + seconds["checkpoint"], busy
        ),
    }


def _seconds(rows: Sequence[Row], events: Sequence[Row]) -> dict[str, float]:
    """Seconds of the run by activity; a checkpoint written for a reload counts as reload time."""
    reloads = [e for e in events if e.get("event") == "reload"]
    saved = [e for e in events if e.get("event") == "checkpoint" and not e.get("for_reload")]
    first = rows[0] if rows else {}
    return {
        "train": sum(_column(rows, "step_seconds")),
        "reload": _reload_seconds(rows, reloads),
        "remedy": sum(_column([e for e in events if e.get("event") == "remedy"], "seconds")),
        "checkpoint": sum(_column(saved, "seconds")),
        "startup": (first.get("time") or 0.0) - (first.get("step_seconds") or 0.0),
        "total": max(_column((*rows[-1:], *events[-1:]), "time"), default=0.0),
    }


def _reload_seconds(rows: Sequence[Row], reloads: Sequence[Row]) -> float:
    """Seconds in reloads; none takes longer than from the row before it to the row after it.

    What an earlier lab wrote counts the time for which a run lay there between two sittings.
    """
    times = {row["step"]: row["time"] for row in rows if row.get("time") is not None}
    total = 0.0
    for reload in reloads:
        step = reload.get("step") or 0
        between = times.get(step + 1, math.inf) - times.get(step, 0.0)
        parts = (reload.get("seconds") or {}).values()
        total += min(sum(max(part, 0.0) for part in parts), between)
    return total


def _slope(rows: Sequence[Row]) -> float | None:
    memory = [(row["step"], row.get("memory/process_gb")) for row in rows[WARM_UP_STEPS:]]
    points = [(step, gb * GB / MB) for step, gb in memory if gb is not None]
    return theil_sen(points) if len(points) > 1 else None


def _column(rows: Sequence[Row], key: str) -> list[float]:
    return [row[key] for row in rows if row.get(key) is not None]


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
