"""The plotly traces of one line: its memory, reloads, loss, speed and point, and its bands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab.compare.lines import Line
from lab.compare.memory import FIGURES, memory_gb
from lab.compare.palette import MANY
from lab.compare.scales import LOSSES, TIME_UNITS
from lab.compare.trace import Trace, TracePoints, escaped, plane
from lab.plots.columns import Columns
from lab.plots.curves import BINS, Values, extremes

MOST_POINTS = 60_000  # of one kind of curve over all lines, so that the page stays light
FEWEST_BINS = 100
MOST_RELOAD_MARKS = 3_000  # over all lines
FEWEST_RELOAD_MARKS = 12  # of one line
RIBBONS = 6  # lines whose equal curves can be told apart by their widths
BAND_OPACITY = 0.16

Figure = Callable[[Columns], Values]
MEMORIES: dict[str, Figure] = {
    name: lambda columns, name=name: memory_gb(columns, name) for name in FIGURES
}
LOSS_FIGURES: dict[str, Figure] = dict(
    zip(
        LOSSES,
        (lambda c: c["loss"], lambda c: c.smooth("loss"), lambda c: c["val_loss"]),
        strict=True,
    )
)
SPEEDS: dict[str, Figure] = {"": Columns.speed}


@dataclass(frozen=True)
class LineTraces:
    """Make the traces of one line.

    Attributes:
        rank: among the lines that are drawn.
        count: how many these are.
        unit: of time.
    """

    line: Line
    colour: str
    dash: str
    rank: int
    count: int
    unit: str

    def traces(self) -> list[Trace]:
        """The five traces that every line has."""
        return [self._memory(), self._reloads(), self._loss(), self._speed(), self._point()]

    def bands(self) -> list[Trace]:
        """From the lowest to the highest of its runs, behind the mean."""
        return [
            self._band(1, MEMORIES, "memory"),
            self._band(2, LOSS_FIGURES, "loss"),
            self._band(3, SPEEDS, ""),
        ]

    @property
    def _head(self) -> str:
        return f"<b>{escaped(self.line.label)}</b>"

    @property
    def _thin(self) -> bool:
        return self.count > MANY

    def _style(self, mode: str, panel: int, **style: Any) -> dict[str, Any]:
        number = "" if panel == 1 else panel
        return {
            "type": "scatter",
            "mode": mode,
            "name": escaped(self.line.name),
            "legendgroup": f"run{self.line.index}",
            "showlegend": False,
            "xaxis": f"x{number}",
            "yaxis": f"y{number}",
            **style,
        }

    def _stroke(self, width: float) -> dict[str, Any]:
        return {"color": self.colour, "width": width, "dash": self.dash}

    def _memory(self) -> Trace:
        line = self._stroke(1.0 if self._thin else 1.6)
        return Trace(
            style=self._style("lines", 1, line=line, showlegend=True, legendrank=self.rank + 1),
            parts=self._parts(MEMORIES),
            switch="memory",
            run=self.line.index,
            hover=self._hover("%{y:.3f} GB"),
        )

    def _loss(self) -> Trace:
        # Equal curves lie on each other: of few, each later one is thinner, so that all are seen.
        later = self.count - 1 - self.rank if self.count <= RIBBONS else 0
        ribbon = 1.4 + 1.7 * later
        return Trace(
            style=self._style("lines", 2, line=self._stroke(ribbon)),
            parts=self._parts(LOSS_FIGURES),
            switch="loss",
            run=self.line.index,
            hover=self._hover("%{y:.4f}"),
            widths={"step": ribbon, "time": 1.4},
            same=self.line.same_loss,
        )

    def _speed(self) -> Trace:
        return Trace(
            style=self._style("lines", 3, line=self._stroke(1.0 if self._thin else 1.4)),
            parts=self._parts(SPEEDS),
            run=self.line.index,
            hover=self._hover("%{y:,.0f} tokens/s"),
        )

    def _parts(self, figures: dict[str, Figure]) -> dict[str, TracePoints]:
        return {name: self._part(self.line.band(of).mean) for name, of in figures.items()}

    def _part(self, values: Values) -> TracePoints:
        return self._points(self._thinned(values), values)

    def _thinned(self, values: Values) -> NDArray[np.intp]:
        bins = min(BINS, max(FEWEST_BINS, MOST_POINTS // (2 * self.count)))
        there = np.flatnonzero(~np.isnan(values))
        return there[extremes(values[there], bins)] if len(there) > 2 * bins else there

    def _points(self, at: NDArray[np.intp], values: Values) -> TracePoints:
        return TracePoints(
            self.line.steps[at], self.line.time[at] / TIME_UNITS[self.unit], values[at]
        )

    def _band(self, panel: int, figures: dict[str, Figure], switch: str) -> Trace:
        fill = {"fill": "toself", "fillcolor": self.colour, "line": {"width": 0}}
        return Trace(
            style=self._style("lines", panel, **fill, opacity=BAND_OPACITY, hoverinfo="skip"),
            parts={name: self._outline(of) for name, of in figures.items()},
            switch=switch,
            run=self.line.index,
        )

    def _outline(self, of: Figure) -> TracePoints:
        """There along the lowest, back along the highest."""
        band = self.line.band(of)
        low, high = (self._part(v) for v in (band.low, band.high) if v is not None)
        return TracePoints(
            np.append(low.step, high.step[::-1]),
            np.append(low.time, high.time[::-1]),
            np.append(low.y, high.y[::-1]),
        )

    def _hover(self, value: str) -> dict[str, str]:
        """One line, since the runs at a step are told below each other."""
        at = {"step": f"%{{customdata:.4~g}} {self.unit}", "time": "step %{customdata:.0f}"}
        return {
            along: f"{self._head} {value}, {other}<extra></extra>" for along, other in at.items()
        }

    def _reloads(self) -> Trace:
        """The reloads where the policy saw memory before each; of very many, every n-th."""
        known = []
        for entry in self.line.entries:
            columns, reloads = entry.run.columns, entry.run.reloads
            rows = {step: row for row, step in enumerate(columns["step"].tolist())}
            known += [
                (entry, rows[r.step], n, r) for n, r in enumerate(reloads, 1) if r.step in rows
            ]
        every = max(1, -(-len(known) // max(FEWEST_RELOAD_MARKS, MOST_RELOAD_MARKS // self.count)))
        shown = known[every - 1 :: every]
        texts = tuple(
            f"reload {n} of {len(entry.run.reloads)} ({escaped(r.reason)}) after step {r.step}<br>"
            + ("" if r.freed_gb is None else f"gave {r.freed_gb:.3f} GB back, ")
            + ("" if r.seconds is None else f"took {r.seconds:.2f} s")
            for entry, _, n, r in shown
        )
        steps = np.array([r.step for *_, r in shown], float)
        times = np.array([e.run.columns["time"][row] for e, row, *_ in shown], float)
        times = times / TIME_UNITS[self.unit]
        parts = {}
        for name in FIGURES:
            after = {e.number: memory_gb(e.run.columns, name) for e in self.line.entries}
            at = [r.before.get(name, after[e.number][row]) for e, row, _, r in shown]
            parts[name] = TracePoints(steps, times, np.array(at, float), texts)
        marker = {
            "symbol": "triangle-down",
            "size": 5 if self._thin else 9,
            "color": self.colour,
            "line": {"color": "white", "width": 0.5 if self._thin else 1},
        }
        hover = f"{self._head}<br>%{{text}}<extra></extra>"
        return Trace(
            style=self._style("markers", 1, marker=marker),
            parts=parts,
            switch="memory",
            run=self.line.index,
            hover={"step": hover, "time": hover},
        )

    def _point(self) -> Trace:
        """The line's overhead and peak memory; hollow if it did not complete."""
        state = self.line.state
        marker = {"size": 8 if self._thin else 11, "color": self.colour}
        marker["line"] = {"color": "white", "width": 1}
        if state != "completed":
            marker |= {"symbol": "circle-open", "line": {"width": 1.6}}
        hover = (
            f"{self._head}, {escaped(state)}"
            "<br>overhead %{x:.1f} %, peak %{y:.3f} GB<extra></extra>"
        )
        points = {name: self.line.overhead_and_peak(name) for name in FIGURES}
        return Trace(
            style=self._style("markers", 4, marker=marker, cliponaxis=False),
            parts={name: plane([point] if point else []) for name, point in points.items()},
            switch="memory",
            run=self.line.index,
            hover={"step": hover, "time": hover},
        )
