"""Plotly layout of the page: memory, loss and speed below each other, the Pareto front beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lab.compare.comparison import Comparison, agreement
from lab.compare.traces import TIME_UNITS, escaped, longest, time_unit
from lab.plots.columns import MEMORY_FIGURES
from lab.plots.style import GRID, INK, MUTED
from lab.tracking.text import short_names

HEIGHT = 860
LEFT, RIGHT = (0.0, 0.66), (0.735, 1.0)
MEMORY, LOSS, SPEED = (0.585, 0.97), (0.285, 0.505), (0.0, 0.205)

TITLES = {
    "process": "Memory of the process",
    "active": "MLX active memory",
    "cache": "MLX cache",
    "peak": "MLX peak memory of each step",
}

AXIS = {
    "gridcolor": GRID,
    "zeroline": False,
    "linecolor": GRID,
    "tickfont": {"color": MUTED},
}
ALONG = {
    "showgrid": False,
    "showspikes": True,
    "spikemode": "across",
    "spikethickness": 1,
    "spikecolor": MUTED,
    "spikedash": "dot",
    "spikesnap": "cursor",
}


def layout(comparison: Comparison) -> dict[str, Any]:
    """Plotly's layout, without what the page's switches set."""
    return {
        "xaxis": _axis("y", LEFT, **ALONG, showticklabels=False, autorangeoptions={"clipmin": 0}),
        "xaxis2": _axis("y2", LEFT, **ALONG, showticklabels=False, matches="x"),
        "xaxis3": _axis("y3", LEFT, **ALONG, matches="x", title=_title("step")),
        "xaxis4": _axis("y4", RIGHT, rangemode="tozero", title=_title("overhead (% of the time)")),
        "yaxis": _axis("x", MEMORY, title=_title("GB")),
        "yaxis2": _axis("x2", LOSS, title=_title("nats a token")),
        "yaxis3": _axis("x3", SPEED, title=_title("tokens/s"), rangemode="tozero"),
        "yaxis4": _axis("x4", MEMORY, title=_title("peak GB")),
        "annotations": [
            _head("", LEFT[0], MEMORY),
            _head("", LEFT[0], LOSS),
            _head("Speed, mean of a fortieth of the run", LEFT[0], SPEED),
            _head("Overhead against peak memory", RIGHT[0], MEMORY),
            _head(agreement(comparison.entries), LEFT[1], LOSS)
            | {"xanchor": "right", "font": {"size": 12, "color": MUTED}},
        ],
        "legend": {
            "x": RIGHT[0] - 0.015,
            "y": LOSS[1] - 0.02,
            "yanchor": "top",
            "maxheight": 0.485,
            "itemsizing": "constant",
            "title": {"text": _legend_title(comparison), "font": {"size": 13, "weight": 600}},
        },
        "template": "none",
        "font": {"family": "system-ui, sans-serif", "color": INK, "size": 12},
        "hovermode": "closest",
        "hoverlabel": {"namelength": -1, "bgcolor": "white", "font": {"color": INK}},
        "margin": {"l": 76, "r": 16, "t": 28, "b": 44},
        "modebar": {"remove": ["select2d", "lasso2d"]},
        "height": HEIGHT,
    }


def memory_ranges(comparison: Comparison) -> dict[str, tuple[float, float]]:
    """Range of the memory axes in GB, by figure; wide enough that 1 % differences look small."""
    found = {}
    for figure in MEMORY_FIGURES:
        ranges = [r for entry in comparison.entries if (r := entry.range(figure)) is not None]
        low, high = (min(r[0] for r in ranges), max(r[1] for r in ranges)) if ranges else (0, 1)
        found[figure] = (0.9 * low, 1.03 * high)
    return found


def axis_ends(comparison: Comparison) -> dict[str, float]:
    """Ends of the horizontal axis, in steps and in the time unit: the longest run and 1 %."""
    time = longest(comparison, "time") / TIME_UNITS[time_unit(comparison)]
    return {"step": 1.01 * longest(comparison, "step") or 1, "time": 1.01 * time or 1}


def _legend_title(comparison: Comparison) -> str:
    return escaped(f"run: {', '.join(short_names(comparison.named_by))}".rstrip(": "))


def _axis(anchor: str, domain: tuple[float, float], **rest: Any) -> Mapping[str, Any]:
    return AXIS | {"anchor": anchor, "domain": domain} | rest


def _title(text: str) -> dict[str, Any]:
    return {"text": text, "font": {"size": 12}, "standoff": 8}


def _head(text: str, x: float, row: tuple[float, float]) -> dict[str, Any]:
    return {
        "text": text,
        "x": x,
        "y": row[1] + 0.008,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 13, "weight": 600},
    }
