"""A plotly trace whose points the page's switches choose, and how its arrays are packed."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lab.plots.curves import Values


@dataclass(frozen=True)
class TracePoints:
    """The points of one trace for one position of its switch.

    Attributes:
        step: x over steps.
        time: x over time, in the page's time unit.
        texts: hover text of each point beside its numbers; empty if there is none.
    """

    step: Values
    time: Values
    y: Values
    texts: tuple[str, ...] = ()

    def packed(self, pool: Pool) -> dict[str, Any]:
        """For JSON: each array as its place in the pool."""
        numbers = {"step": self.step, "time": self.time, "y": self.y}
        texts = {"texts": self.texts} if self.texts else {}
        return {name: pool.place(values) for name, values in numbers.items()} | texts


class Pool:
    """The arrays of all traces, those that are equal in every bit once."""

    def __init__(self) -> None:
        self._places: dict[bytes, int] = {}

    def place(self, values: Values) -> int:
        """The place of an array among all."""
        return self._places.setdefault(np.asarray(values, float).tobytes(), len(self._places))

    def arrays(self) -> list[bytes]:
        """All of them as little-endian float32."""
        return [np.frombuffer(values).astype("<f4").tobytes() for values in self._places]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A plotly trace whose points are set by the page's switches.

    Attributes:
        style: everything but the points.
        parts: the points, by the position of the switch.
        switch: ``memory`` or ``loss``; empty where there is one part only.
        run: index of its line's first run among the entries; None for what belongs to no run.
        hover: hover templates for the horizontal axes ``step`` and ``time``.
        widths: line widths for the same; empty for markers.
        same: of a loss, the run whose loss it equals in every bit; None where none is known.
    """

    style: Mapping[str, Any]
    parts: Mapping[str, TracePoints]
    switch: str = ""
    run: int | None = None
    hover: Mapping[str, str] = field(default_factory=dict)
    widths: Mapping[str, float] = field(default_factory=dict)
    same: int | None = None

    def packed(self, pool: Pool) -> dict[str, Any]:
        parts = {name: part.packed(pool) for name, part in self.parts.items()}
        chosen = {"switch": self.switch, "hover": self.hover, "widths": self.widths}
        return {"run": self.run, "same": self.same, "parts": parts, **chosen}


def plane(points: Sequence[tuple[float, float]]) -> TracePoints:
    """Points of overhead (fraction) and peak memory (GB)."""
    overhead, peak = np.array(points, float).reshape(-1, 2).T
    return TracePoints(overhead * 100, overhead * 100, peak)


def escaped(text: str) -> str:
    """Escape text from a run's files for plotly, which reads tags, templates and TeX in it."""
    return html.escape(text, quote=False).replace("{", "&#123;").replace("$", "&#36;")
