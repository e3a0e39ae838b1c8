"""The plotly traces of a comparison: its curves, reloads and points."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab.compare.comparison import Comparison, Entry, overhead_peak_front
from lab.compare.palette import MANY, dashes, palettes
from lab.plots.columns import MEMORY_FIGURES, Columns
from lab.plots.curves import BINS, Values, extremes
from lab.plots.style import MUTED

MOST_POINTS = 60_000  # of one kind of curve over all runs, so that the page stays light
FEWEST_BINS = 100
MOST_RELOAD_MARKS = 3_000  # over all runs
FEWEST_RELOAD_MARKS = 12  # of one run
RIBBONS = 6  # runs whose equal curves can be told apart by their widths

TIME_UNITS = {"s": 1, "min": 60, "h": 3600}
LOSSES = ("every step", "smoothed", "validation")


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

    def packed(self) -> dict[str, Any]:
        """For JSON: numbers as base64 of little-endian float32, a third as long as digits."""
        numbers = {"step": self.step, "time": self.time, "y": self.y}
        texts = {"texts": self.texts} if self.texts else {}
        return {name: _base64(values) for name, values in numbers.items()} | texts


def _base64(values: Values) -> str:
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A plotly trace whose points are set by the page's switches.

    Attributes:
        style: everything but the points.
        parts: the points, by the position of the switch.
        switch: ``memory`` or ``loss``; empty where there is one part only.
        run: index of its run among the entries; None for what belongs to no run.
        hover: hover templates for the horizontal axes ``step`` and ``time``.
        widths: line widths for the same; empty for markers.
    """

    style: Mapping[str, Any]
    parts: Mapping[str, TracePoints]
    switch: str = ""
    run: int | None = None
    hover: Mapping[str, str] = field(default_factory=dict)
    widths: Mapping[str, float] = field(default_factory=dict)

    def packed(self) -> dict[str, Any]:
        parts = {name: part.packed() for name, part in self.parts.items()}
        chosen = {"switch": self.switch, "hover": self.hover, "widths": self.widths}
        return {"run": self.run, "parts": parts, **chosen}


def traces_of(comparison: Comparison) -> list[Trace]:
    """All traces: five a run, in the same order for each, then the Pareto front."""
    unit = time_unit(comparison)
    drawn = zip(
        comparison.entries, palettes(comparison)[0].colours, dashes(comparison), strict=True
    )
    return [
        *(
            trace
            for index, (entry, colour, dash) in enumerate(drawn)
            for trace in _RunTraces(
                index, entry, colour, dash, len(comparison.entries), unit
            ).traces()
        ),
        _front(comparison.entries),
    ]


def time_unit(comparison: Comparison) -> str:
    """The time unit of all charts, from the longest run."""
    seconds = longest(comparison, "time")
    return "s" if seconds < 600 else "min" if seconds < 4 * 3600 else "h"


def first_loss(comparison: Comparison) -> str:
    return LOSSES[1] if comparison.is_long else LOSSES[0]


def longest(comparison: Comparison, key: str) -> float:
    """The largest step or time (s) over all runs; 0 without rows."""
    columns = [entry.run.columns[key] for entry in comparison.entries]
    return max((float(np.nanmax(values, initial=0.0)) for values in columns), default=0.0)


@dataclass(frozen=True)
class _RunTraces:
    """Make the traces of one run among ``count``."""

    index: int
    entry: Entry
    colour: str
    dash: str
    count: int
    unit: str

    def traces(self) -> list[Trace]:
        return [self._memory(), self._reloads(), self._loss(), self._speed(), self._point()]

    @property
    def _columns(self) -> Columns:
        return self.entry.run.columns

    @property
    def _head(self) -> str:
        return f"<b>{escaped(self.entry.label)}</b>"

    def _style(self, mode: str, panel: int, **style: Any) -> dict[str, Any]:
        number = "" if panel == 1 else panel
        return {
            "type": "scatter",
            "mode": mode,
            "name": escaped(self.entry.short),
            "legendgroup": f"run{self.index}",
            "showlegend": False,
            "xaxis": f"x{number}",
            "yaxis": f"y{number}",
            **style,
        }

    def _line(self, width: float) -> dict[str, Any]:
        return {"color": self.colour, "width": width, "dash": self.dash}

    def _memory(self) -> Trace:
        line = self._line(1.6 if self.count <= MANY else 1.0)
        return Trace(
            style=self._style("lines", 1, line=line, showlegend=True, legendrank=self.index + 1),
            parts={name: self._part(self._columns[f"memory/{name}_gb"]) for name in MEMORY_FIGURES},
            switch="memory",
            run=self.index,
            hover=self._hover("%{y:.3f} GB"),
        )

    def _loss(self) -> Trace:
        # Equal curves lie on each other: of few, each later one is thinner, so that all are seen.
        later = self.count - 1 - self.index if self.count <= RIBBONS else 0
        ribbon = 1.4 + 1.7 * later
        losses = (self._columns["loss"], self._columns.smooth("loss"), self._columns["val_loss"])
        return Trace(
            style=self._style("lines", 2, line=self._line(ribbon)),
            parts=dict(zip(LOSSES, map(self._part, losses), strict=True)),
            switch="loss",
            run=self.index,
            hover=self._hover("loss %{y:.4f}"),
            widths={"step": ribbon, "time": 1.4},
        )

    def _speed(self) -> Trace:
        return Trace(
            style=self._style("lines", 3, line=self._line(1.4 if self.count <= MANY else 1.0)),
            parts={"": self._part(self._columns.speed())},
            run=self.index,
            hover=self._hover("%{y:,.0f} tokens/s"),
        )

    def _part(self, values: Values) -> TracePoints:
        bins = min(BINS, max(FEWEST_BINS, MOST_POINTS // (2 * self.count)))
        there = np.flatnonzero(~np.isnan(values))
        if len(there) > 2 * bins:
            there = there[extremes(values[there], bins)]
        return self._points(there, values)

    def _points(
        self, at: NDArray[np.intp], values: Values, texts: tuple[str, ...] = ()
    ) -> TracePoints:
        time = self._columns["time"][at] / TIME_UNITS[self.unit]
        return TracePoints(self._columns["step"][at], time, values[at], texts)

    def _hover(self, value: str) -> dict[str, str]:
        head, tail = f"{self._head}<br>", f"<br>{value}<extra></extra>"
        return {
            "step": f"{head}step %{{x:.0f}}, %{{customdata:.4~g}} {self.unit}{tail}",
            "time": f"{head}step %{{customdata:.0f}}, %{{x:.4~g}} {self.unit}{tail}",
        }

    def _reloads(self) -> Trace:
        """The reloads, on the curve of the chosen figure; of very many, every n-th."""
        reloads = self.entry.run.reloads
        rows = {step: row for row, step in enumerate(self._columns["step"].tolist())}
        known = [(rows[r.step], n, r) for n, r in enumerate(reloads, 1) if r.step in rows]
        every = max(1, -(-len(known) // max(FEWEST_RELOAD_MARKS, MOST_RELOAD_MARKS // self.count)))
        at = np.array([row for row, *_ in known[every - 1 :: every]], np.intp)
        texts = tuple(
            f"reload {n} of {len(reloads)} ({escaped(r.reason)}) after step {r.step}<br>"
            + ("" if r.freed_gb is None else f"gave {r.freed_gb:.3f} GB back, ")
            + ("" if r.seconds is None else f"took {r.seconds:.2f} s")
            for _, n, r in known[every - 1 :: every]
        )
        marker = {
            "symbol": "triangle-down",
            "size": 9 if self.count <= MANY else 5,
            "color": self.colour,
            "line": {"color": "white", "width": 1 if self.count <= MANY else 0.5},
        }
        hover = f"{self._head}<br>%{{text}}<extra></extra>"
        return Trace(
            style=self._style("markers", 1, marker=marker),
            parts={
                name: self._points(at, self._columns[f"memory/{name}_gb"], texts)
                for name in MEMORY_FIGURES
            },
            switch="memory",
            run=self.index,
            hover={"step": hover, "time": hover},
        )

    def _point(self) -> Trace:
        """The run's overhead and peak memory; hollow if it did not complete."""
        state, size = self.entry.run.state, 11 if self.count <= MANY else 8
        marker = {"size": size, "color": self.colour, "line": {"color": "white", "width": 1}}
        if state != "completed":
            marker |= {"symbol": "circle-open", "line": {"width": 1.6}}
        hover = (
            f"{self._head}, {escaped(state)}"
            "<br>overhead %{x:.1f} %, peak %{y:.3f} GB<extra></extra>"
        )
        points = {name: self.entry.overhead_and_peak(name) for name in MEMORY_FIGURES}
        return Trace(
            style=self._style("markers", 4, marker=marker, cliponaxis=False),
            parts={name: _plane([point] if point else []) for name, point in points.items()},
            switch="memory",
            run=self.index,
            hover={"step": hover, "time": hover},
        )


def _front(entries: Sequence[Entry]) -> Trace:
    style = {
        "type": "scatter",
        "mode": "lines",
        "line": {"shape": "hv", "color": MUTED, "width": 1.3, "dash": "dot"},
        "hoverinfo": "skip",
        "showlegend": False,
        "xaxis": "x4",
        "yaxis": "y4",
    }
    parts = {name: _plane(pareto_staircase(entries, name)) for name in MEMORY_FIGURES}
    return Trace(style=style, parts=parts, switch="memory")


def _plane(points: Sequence[tuple[float, float]]) -> TracePoints:
    overhead, peak = np.array(points, float).reshape(-1, 2).T
    return TracePoints(overhead * 100, overhead * 100, peak)


def pareto_staircase(entries: Sequence[Entry], figure: str) -> list[tuple[float, float]]:
    """The Pareto front as a step line, prolonged to the highest and the rightmost run."""
    known = (entry.overhead_and_peak(figure) for entry in entries)
    points = [point for point in known if point is not None]
    steps = overhead_peak_front(entries, figure)
    if not steps:
        return []
    (right, _), (_, top) = max(points), max(points, key=lambda point: point[1])
    return [(steps[0][0], top), *steps, (right, steps[-1][1])]


def escaped(text: str) -> str:
    """Escape text from a run's files for plotly, which reads tags, templates and TeX in it."""
    return html.escape(text, quote=False).replace("{", "&#123;").replace("$", "&#36;")
