"""Rows of ``metrics.jsonl`` and ``events.jsonl``: their keys, encoding and decoding."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lab.config.schema import ConfigError, why_unreadable

MEMORY_KEYS = (
    "memory/active_gb",
    "memory/cache_gb",
    "memory/peak_gb",
    "memory/process_gb",
    "memory/available_gb",
    "memory/swap_gb",
    "memory/slope_mb_per_step",
    "memory/trend_mb_per_step",
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
"""Keys of every row of ``metrics.jsonl``, in order; ``val_loss`` follows after a validation."""

ROW_BYTES = 65536  # that no row has
MOST = 1e9  # GB, seconds, tokens of a step: none has more

_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False).encode


def encode(row: Mapping[str, object]) -> str:
    """JSON on one line. Floats keep every bit; NaN and infinities become null."""
    try:
        return _encode(row)
    except ValueError:
        return _encode(finite(row))


def finite(value: object) -> object:
    """Replace each NaN or infinite float by None, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def decode(line: bytes) -> dict[str, object] | None:
    """Parse one line; None if it is no JSON object, or half written (no newline yet)."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def read_jsonl(path: Path, *, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of a file that may still grow.

    A missing file has no rows. Lines that cannot be parsed are skipped, half a last line too.

    Arguments:
        limit: read only lines that begin within this many bytes.

    Raises:
        OSError: the file exists and cannot be read.
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


def read_rows(run_dir: Path) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of a run's ``metrics.jsonl`` that have an integer step.

    Raises:
        OSError: the file exists and cannot be read.
    """
    return (row for row in read_jsonl(run_dir / "metrics.jsonl") if type(row.get("step")) is int)


def check_rows(run_dir: Path) -> None:
    """Refuse a run whose rows are lost: its ``metrics.jsonl`` is not empty and holds none.

    Half a row may be the first of a run that has just begun.

    Raises:
        ConfigError: the file is damaged, or cannot be read.
    """
    path = run_dir / "metrics.jsonl"
    try:
        if next(read_rows(run_dir), None) is not None:
            return
        with path.open("rb") as file:
            begin = file.read(ROW_BYTES)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError("run", path, f"cannot be read: {why_unreadable(error)}") from error
    if begin and not (begin.startswith(b"{") and b"\n" not in begin):
        raise ConfigError("run", path, "is damaged: it holds no row that can be read")


def plausible(value: object) -> float | None:
    """A figure that a row or an event may have; None for any other that somebody wrote there."""
    if isinstance(value, int | float) and 0 <= value < MOST:
        return float(value)
    return None


def metric_gb(figures: Mapping[str, object], metric: str) -> float | None:
    """The memory figure that a reload policy uses (``reload.metric``), in GB of 2^30 bytes.

    Arguments:
        figures: a row of ``metrics.jsonl``, or ``before`` or ``after`` of a reload event, whose
            keys may lack the prefix ``memory/``.

    Returns:
        None if a figure is missing or null.
    """
    keys = watched_keys(metric)
    values = [figures.get(key, figures.get(key.removeprefix("memory/"))) for key in keys]
    numbers = [value for value in values if isinstance(value, int | float)]
    return float(sum(numbers)) if len(numbers) == len(keys) else None


def watched_keys(metric: str) -> tuple[str, ...]:
    """The keys of a row whose sum is the figure of :func:`metric_gb`."""
    active = "memory/active_gb"
    watched = {"active": (active,), "mlx": (active, "memory/cache_gb")}
    return watched.get(metric, ("memory/process_gb",))
