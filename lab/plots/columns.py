"""``metrics.jsonl`` as columns for drawing, and the reload events beside it.

Two readers give the same columns. :func:`read_columns` parses line by line and takes any file;
:func:`read_columns_fast` parses with polars in a tenth of the time, and falls back to the other
for a damaged file.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab.plots.curves import Curve, Values, smoothed, window_sums
from lab.records.rows import decode, read_rows

MEMORY_FIGURES = ("process", "active", "cache", "peak")
KEYS = (
    "time",
    "loss",
    "val_loss",
    "tokens",
    "step_seconds",
    "tokens_per_second",
    *(f"memory/{figure}_gb" for figure in MEMORY_FIGURES),
)


@dataclass(frozen=True)
class Columns:
    """The drawn values of a run's rows.

    Attributes:
        values: by key, ``step`` and each of ``KEYS``: float64 arrays of shape (rows,), NaN where a
            row has no value.
    """

    values: Mapping[str, Values]

    def __len__(self) -> int:
        return len(self.values["step"])

    def __getitem__(self, key: str) -> Values:
        return self.values[key]

    def curve(self, key: str, over: str = "step") -> Curve:
        """The points that have both values."""
        x, y = self.values[over], self.values[key]
        there = ~(np.isnan(x) | np.isnan(y))
        return Curve(x[there], y[there])

    def smooth(self, key: str) -> Values:
        """The values smoothed; NaN stays NaN."""
        values = self.values[key].copy()
        there = ~np.isnan(values)
        values[there] = smoothed(values[there])
        return values

    def speed(self) -> Values:
        """Training speed in tokens per second, over a window of a fortieth of the run."""
        tokens, seconds = (window_sums(self.values[key]) for key in ("tokens", "step_seconds"))
        with np.errstate(divide="ignore", invalid="ignore"):
            speed = tokens / seconds
        return np.where(np.isfinite(speed), speed, np.nan)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows again, as of ``metrics.jsonl``, without the keys that have no value."""
        names = list(self.values)
        table = zip(*(self.values[name].tolist() for name in names), strict=True)
        for values in table:
            row = {key: v for key, v in zip(names, values, strict=True) if not math.isnan(v)}
            yield row | {"step": int(row["step"])}


def read_columns(run_dir: Path) -> Columns:
    """The columns of a ``metrics.jsonl`` that may be missing, damaged or still growing.

    Lines that are no rows are left out; a value that is no finite number becomes NaN.

    Raises:
        OSError: the file exists and cannot be read.
    """
    rows = list(read_rows(run_dir))
    return Columns(
        {key: np.array([_number(row.get(key)) for row in rows], float) for key in ("step", *KEYS)}
    )


def read_columns_fast(run_dir: Path) -> tuple[Columns, str]:
    """The same columns, parsed with polars where every line is a whole row.

    Returns:
        The columns, and what is wrong with the file: one line, empty if nothing is.
    """
    import polars as pl  # here: whoever draws one run does not pay for its import

    schema = {"step": pl.Int64, **dict.fromkeys(KEYS, pl.Float64)}
    try:
        text = (run_dir / "metrics.jsonl").read_bytes()
        whole = io.BytesIO(text[: text.rfind(b"\n") + 1])
        frame = pl.read_ndjson(whole, schema=schema).filter(pl.col("step").is_not_null())
    except FileNotFoundError:
        return read_columns(run_dir), ""
    except pl.exceptions.PolarsError:
        problem = "metrics.jsonl is damaged: lines that cannot be read are left out"
        return read_columns(run_dir), problem
    except OSError as error:
        empty = Columns({key: np.array([]) for key in schema})
        return empty, f"metrics.jsonl cannot be read: {error.strerror}"
    return Columns({key: frame[key].cast(pl.Float64).to_numpy() for key in schema}), ""


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:
        return math.nan


def read_reloads(run_dir: Path, kind: str = "reload") -> Iterator[dict[str, Any]]:
    """The reload events of a run that have an integer step; their other fields are unchecked.

    Arguments:
        kind: ``remedy`` for what ``reload=adaptive`` did short of a reload, ``census`` for what
            the explainer did.

    Raises:
        OSError: the file exists and cannot be read.
    """
    try:
        file = (run_dir / "events.jsonl").open("rb")
    except FileNotFoundError:
        return
    with file:
        # Most events are others, and parsing them would take most of the time.
        named = f'"{kind}"'.encode()
        for event in map(decode, (line for line in file if named in line)):
            if event and event.get("event") == kind and type(event.get("step")) is int:
                yield event
