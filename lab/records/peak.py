"""Where the memory lay when it was highest, as far as rows and the worker's own counts say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lab.config.units import GB
from lab.records.rows import plausible

Row = Mapping[str, Any]


def memory_at_peak(rows: Sequence[Row], events: Sequence[Row]) -> dict[str, dict[str, float]]:
    """The parts of two peaks, MLX's and the process's, each with its step; in GB.

    Of ``mlx``: ``weights_gb`` and ``optimizer_gb`` as the worker counted them; ``other_gb``, what
    else was alive after the step; ``activations_gb``, what the step took beyond what it left alive:
    activations, gradients and other temporaries. Of ``process``: ``active_gb`` and ``cache_gb`` of
    MLX, and ``rest_gb``: the interpreter, libraries, and heap.

    Returns:
        Without a peak, or a part, that these figures do not tell: on CUDA no array is in the
        process's memory, and a macOS footprint may lag behind MLX's counters.
    """
    workers = [event for event in events if event.get("event") == "worker_started"]
    peaks = {
        "mlx": _parts_of_mlx(_highest(rows, "memory/peak_gb"), workers),
        "process": _parts_of_process(_highest(rows, "memory/process_gb"), workers),
    }
    return {name: parts for name, parts in peaks.items() if parts}


def _highest(rows: Sequence[Row], key: str) -> Row:
    return max((row for row in rows if plausible(row.get(key))), key=lambda r: r[key], default={})


def _parts_of_mlx(row: Row, workers: Sequence[Row]) -> dict[str, float]:
    active, peak = plausible(row.get("memory/active_gb")), plausible(row.get("memory/peak_gb"))
    if active is None or peak is None or peak < active:
        return {}
    facts = next((event["facts"] for event in reversed(workers) if event.get("facts")), {})
    counted = {name: plausible(facts.get(f"{name}_bytes")) for name in ("weights", "optimizer")}
    parts = {f"{name}_gb": count / GB for name, count in counted.items() if count is not None}
    if sum(parts.values()) > active:
        parts = {}
    parts["other_gb"] = active - sum(parts.values())
    return {"step": row["step"], **parts, "activations_gb": peak - active}


def _parts_of_process(row: Row, workers: Sequence[Row]) -> dict[str, float]:
    names = ("process", "active", "cache")
    process, active, cache = (plausible(row.get(f"memory/{name}_gb")) for name in names)
    if process is None or active is None or cache is None or _is_on_cuda(workers):
        return {}
    rest = process - active - cache
    parts = {"step": row["step"], "active_gb": active, "cache_gb": cache, "rest_gb": rest}
    return parts if rest >= 0 else {}


def _is_on_cuda(workers: Sequence[Row]) -> bool:
    known = next((event["environment"] for event in workers if event.get("environment")), {})
    return "gpu" in str(known.get("device")) and str(known.get("platform")).startswith("Linux")
