"""The plotly traces of a comparison: its curves, reloads, limits and points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from lab.compare.comparison import Comparison, Judged, overhead_peak_front
from lab.compare.line_traces import LineTraces
from lab.compare.memory import FIGURES, Limit, limits_of, threshold_of
from lab.compare.palette import dashes, palettes
from lab.compare.scales import TIME_UNITS, longest, near_limits, time_unit
from lab.compare.trace import Trace, TracePoints, plane
from lab.plots.style import MUTED

MOST_LINES = 120  # drawn; of more, the front, the groups and every n-th


def traces_of(comparison: Comparison) -> list[Trace]:
    """All traces: five a line, in the same order for each, then bands, limits and the front."""
    unit, colours = time_unit(comparison), palettes(comparison)[0].colours
    chosen = drawn_lines(comparison)
    styles = zip(comparison.lines, dashes(comparison), strict=True)
    drawn = [
        LineTraces(line, colours[line.index], dash, chosen[line.index], len(chosen), unit)
        for line, dash in styles
        if line.index in chosen
    ]
    return [
        *chain.from_iterable(line.traces() for line in drawn),
        *chain.from_iterable(line.bands() for line in drawn if line.line.is_group),
        *limit_traces(comparison, colours),
        *rest_traces(comparison, chosen),
        _front(comparison.lines),
    ]


def drawn_lines(comparison: Comparison) -> dict[int, int]:
    """Which lines are drawn as curves: their indices, each with its rank among them."""
    lines = comparison.lines
    if len(lines) > MOST_LINES:
        points = {p for figure in FIGURES for p in overhead_peak_front(lines, figure)}
        best = [n for n in lines if points & {n.overhead_and_peak(figure) for figure in FIGURES}]
        groups = [line for line in lines if line.is_group]
        every = lines[:: -(-len(lines) // MOST_LINES)]
        kept = {line.index: line for line in (*best, *groups, *every)}
        lines = sorted(list(kept.values())[:MOST_LINES], key=lambda line: line.index)
    return {line.index: rank for rank, line in enumerate(lines)}


def limit_traces(comparison: Comparison, colours: Sequence[str]) -> list[Trace]:
    """Horizontal lines: the threshold of each line in its colour, and what bounds all runs."""
    near = {limit for figure in FIGURES for limit in near_limits(comparison, figure)[0]}
    chosen = drawn_lines(comparison)
    own = [
        _limit(comparison, limit, colours[line.index], line.index)
        for line in comparison.lines
        if line.index in chosen
        and (limit := threshold_of(line.entries[0].run)) is not None
        and limit in near
    ]
    bounds = dict.fromkeys(limit for e in comparison.entries for limit in limits_of(e.run))
    return own + [_limit(comparison, limit, MUTED, None) for limit in bounds if limit in near]


def _limit(comparison: Comparison, limit: Limit, colour: str, run: int | None) -> Trace:
    style = {
        "type": "scatter",
        "mode": "lines+text",
        "line": {"color": colour, "width": 1.2, "dash": "dash"},
        "textposition": "top right",
        "textfont": {"size": 11, "color": colour},
        "hoverinfo": "skip",
        "showlegend": False,
        "xaxis": "x",
        "yaxis": "y",
    }
    group = {} if run is None else {"legendgroup": f"run{run}"}
    ends = [np.array([0.0, longest(comparison, key)]) for key in ("step", "time")]
    unit = TIME_UNITS[time_unit(comparison)]
    there = TracePoints(ends[0], ends[1] / unit, np.full(2, limit.gb), (str(limit), ""))
    nothing = np.array([])
    empty = TracePoints(nothing, nothing, nothing)
    parts = {figure: there if figure == limit.figure else empty for figure in FIGURES}
    return Trace(style=style | group, parts=parts, switch="memory", run=run)


def rest_traces(comparison: Comparison, chosen: Mapping[int, int]) -> list[Trace]:
    """The points of the lines that are not drawn as curves, all in one trace."""
    rest = [line for line in comparison.lines if line.index not in chosen]
    if not rest:
        return []
    style = _in_plane("markers", marker={"color": MUTED, "size": 5, "opacity": 0.6})
    points = {name: [line.overhead_and_peak(name) for line in rest] for name in FIGURES}
    parts = {name: plane([p for p in known if p is not None]) for name, known in points.items()}
    return [Trace(style=style, parts=parts, switch="memory")]


def _front(judged: Sequence[Judged]) -> Trace:
    line = {"shape": "hv", "color": MUTED, "width": 1.3, "dash": "dot"}
    parts = {name: plane(pareto_staircase(judged, name)) for name in FIGURES}
    return Trace(style=_in_plane("lines", line=line), parts=parts, switch="memory")


def _in_plane(mode: str, **style: Any) -> dict[str, Any]:
    """The style of what belongs to no run, in the chart of overhead against peak."""
    plain = {"type": "scatter", "mode": mode, "hoverinfo": "skip", "showlegend": False}
    return plain | {"xaxis": "x4", "yaxis": "y4"} | style


def pareto_staircase(judged: Sequence[Judged], figure: str) -> list[tuple[float, float]]:
    """The Pareto front as a step line, prolonged to the highest and the rightmost point."""
    known = (one.overhead_and_peak(figure) for one in judged)
    points = [point for point in known if point is not None]
    steps = overhead_peak_front(judged, figure)
    if not steps:
        return []
    (right, _), (_, top) = max(points), max(points, key=lambda point: point[1])
    return [(steps[0][0], top), *steps, (right, steps[-1][1])]
