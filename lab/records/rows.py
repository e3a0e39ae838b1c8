"""The rows that a run writes: their keys, and their way to a line of text and back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MEMORY_KEYS = (
    "memory/active_gb",
    "memory/cache_gb",
    "memory/peak_gb",
    "memory/process_gb",
    "memory/available_gb",
    "memory/swap_gb",
    "memory/slope_mb_per_step",
)

METRIC_KEYS = (
    "step",
    "time",
    "loss",
    "tokens",
    "learning_rate",
    "grad_norm",
    "step_seconds",
    "tokens_per_second",
    "data/padded_fraction",
    *MEMORY_KEYS,
    "reload/count",
    "reload/generation",
)
"""Every row has these, in this order; ``val_loss`` follows where one was taken."""

_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode


def encode(row: Mapping[str, object]) -> str:
    """JSON on one line. Floats keep every bit; those that are not finite become null."""
    try:
        return _encode(row)
    except ValueError:
        return _encode(finite(row))


def finite(value: object) -> object:
    """The same value with null in place of each float that is NaN or infinite, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def decode(line: bytes) -> dict[str, object] | None:
    """The row of one line, or None for what is no whole line: the writer may be at work on it."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def read_jsonl(path: Path, *, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a file that may still grow; a missing file has none, half a last line is left out.

    Args:
        limit: read only lines that begin within this many bytes.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        at = 0
        for line in file:
            if limit is not None and at >= limit:
                return
            at += len(line)
            if (row := decode(line)) is not None:
                yield row


def metric_gb(figures: Mapping[str, object], metric: str) -> float | None:
    """The memory that a reload policy looks at (``reload.metric``), in GB of 2^30 bytes.

    ``figures`` is a row of metrics.jsonl, or ``before`` or ``after`` of a reload event, whose keys
    may go without ``memory/``. None where the figure is missing or null.
    """
    names = {"active": ("active",), "mlx": ("active", "cache")}.get(metric, ("process",))
    values = [figures.get(f"memory/{n}_gb", figures.get(f"{n}_gb")) for n in names]
    numbers = [value for value in values if isinstance(value, int | float)]
    return float(sum(numbers)) if len(numbers) == len(names) else None
