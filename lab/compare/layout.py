"""Plotly layout of the page: memory, loss and speed below each other, the Pareto front beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lab.compare.comparison import Comparison
from lab.compare.losses import agreement
from lab.plots.style import GRID, INK, MUTED

LEFT, RIGHT, WHOLE = (0.0, 0.66), (0.735, 1.0), (0.0, 1.0)
MEMORY, LOSS, SPEED = (0.585, 0.97), (0.285, 0.505), (0.0, 0.205)

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
ASIDE = {"xanchor": "right", "font": {"size": 12, "color": MUTED}}


def layout(comparison: Comparison) -> dict[str, Any]:
    """Plotly's layout, without what the page's switches and its width set."""
    return {
        "xaxis": _axis("y", **ALONG, showticklabels=False, autorangeoptions={"clipmin": 0}),
        "xaxis2": _axis("y2", **ALONG, showticklabels=False, matches="x"),
        "xaxis3": _axis("y3", **ALONG, matches="x", title=_title("step")),
        "xaxis4": _axis("y4", rangemode="tozero", title=_title("overhead (% of the time)")),
        "yaxis": _axis("x", title=_title("GB")),
        "yaxis2": _axis("x2", title=_title("nats a token")),
        "yaxis3": _axis("x3", title=_title("tokens/s"), rangemode="tozero"),
        "yaxis4": _axis("x4", title=_title("peak GB")),
        "annotations": [
            _head(""),
            _head(""),
            _head("Speed, mean of a fortieth of the run"),
            _head(""),
            _head(agreement(e.loss_match for e in comparison.entries)) | ASIDE,
            _head("") | ASIDE,
        ],
        "legend": {"yanchor": "top", "itemsizing": "constant", "bgcolor": "rgba(0,0,0,0)"},
        "template": "none",
        "font": {"family": "system-ui, sans-serif", "color": INK, "size": 12},
        "hovermode": "x unified",
        "hoverlabel": {"namelength": -1, "bgcolor": "white", "font": {"color": INK}},
        "margin": {"l": 76, "r": 16, "t": 28, "b": 44},
        "modebar": {"remove": ["select2d", "lasso2d"]},
    }


def places() -> dict[str, dict[str, Any]]:
    """What the width of the page sets, as plotly's relayout takes it."""
    charts = (MEMORY, LOSS, SPEED, MEMORY)
    wide = _placed(charts, (LEFT, LEFT, LEFT, RIGHT), aside=LEFT[1], lift=0.008)
    wide |= {"legend.x": RIGHT[0] - 0.015, "legend.y": LOSS[1] - 0.02, "legend.maxheight": 0.485}
    below = ((0.785, 0.98), (0.555, 0.72), (0.375, 0.49), (0.165, 0.3))
    narrow = _placed(below, (WHOLE,) * 4, aside=1.0, lift=0.004)
    narrow |= {"legend.x": 0, "legend.y": 0.115, "legend.maxheight": 0.12, "margin.l": 56}
    return {"wide": wide | {"height": 860, "margin.l": 76}, "narrow": narrow | {"height": 1500}}


def _placed(
    rows: Sequence[tuple[float, float]],
    columns: Sequence[tuple[float, float]],
    *,
    aside: float,
    lift: float,
) -> dict[str, Any]:
    """Where the four charts are, their heads, and what is said at the right of two of them."""
    placed: dict[str, Any] = {}
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        number = i + 1 if i else ""
        placed |= {f"xaxis{number}.domain": column, f"yaxis{number}.domain": row}
        placed |= {f"annotations[{i}].x": column[0], f"annotations[{i}].y": row[1] + lift}
    under = aside == WHOLE[1]  # where there is no room beside the head
    for i, row in ((4, rows[1]), (5, rows[0])):
        placed |= {f"annotations[{i}].x": aside, f"annotations[{i}].y": row[1] + lift * (not under)}
        placed[f"annotations[{i}].yanchor"] = "top" if under else "bottom"
    return placed


def _axis(anchor: str, **rest: Any) -> Mapping[str, Any]:
    return AXIS | {"anchor": anchor} | rest


def _title(text: str) -> dict[str, Any]:
    return {"text": text, "font": {"size": 12}, "standoff": 8}


def _head(text: str) -> dict[str, Any]:
    return {
        "text": text,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "left",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 13, "weight": 600},
    }
