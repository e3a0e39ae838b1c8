"""compare.html: one self-contained page that compares runs in a browser without a network."""

from __future__ import annotations

import base64
import gzip
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from lab.compare.advice import advice
from lab.compare.comparison import Comparison
from lab.compare.layout import layout, places
from lab.compare.memory import FIGURES, TITLES
from lab.compare.palette import palettes
from lab.compare.scales import LOSSES, axis_ends, first_loss, memory_ranges, near_limits, time_unit
from lab.compare.table import heads, rows_of
from lab.compare.trace import Pool, escaped
from lab.compare.traces import traces_of
from lab.records.replace import MARK
from lab.tracking.text import MEMORY_WORDS, short_names

THEMES = ("auto", "light", "dark")


def render(comparison: Comparison, *, folder: Path, made: datetime) -> str:
    """Render the page as HTML.

    Arguments:
        folder: of the page; the runs' folders are shown relative to it.
        made: when the runs' files were read.
    """
    from jinja2 import Environment, FileSystemLoader
    from plotly.offline import get_plotlyjs

    ways = palettes(comparison)
    names = short_names([way.by for way in ways])
    colours = {name: way.colours for name, way in zip(names, ways, strict=True)}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        comparison=comparison,
        advice=advice(comparison),
        heads=heads(comparison),
        rows=rows_of(comparison, folder),
        switches={
            "memory": FIGURES,
            "along": ("step", "time"),
            "loss": LOSSES,
            "colour": tuple(colours),
            "theme": THEMES,
        },
        chosen={"memory": comparison.figure, "loss": first_loss(comparison)},
        mark=MARK,
        made=made.strftime("%Y-%m-%d %H:%M"),
        data=packed(_data(comparison, colours)),
        plotly=zipped(get_plotlyjs().encode()),
    )


def zipped(content: bytes) -> str:
    """Base64 of gzip: plotly is a third as long so."""
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()


def packed(data: dict[str, Any]) -> str:
    """The page's data: length of the JSON (4 bytes), the JSON, and the arrays that it names."""
    arrays = data.pop("arrays")
    data["lengths"] = [len(array) // 4 for array in arrays]
    head = json.dumps(data, separators=(",", ":"), default=list).encode()
    return zipped(len(head).to_bytes(4, "little") + head + b"".join(arrays))


def _data(comparison: Comparison, colours: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    traces, pool = traces_of(comparison), Pool()
    return {
        "styles": [trace.style for trace in traces],
        "layout": layout(comparison),
        "places": places(),
        "traces": [trace.packed(pool) for trace in traces],
        "arrays": pool.arrays(),
        "titles": TITLES,
        "words": MEMORY_WORDS,
        "far": {figure: _far(comparison, figure) for figure in FIGURES},
        "room": memory_ranges(comparison),
        "last": axis_ends(comparison),
        "unit": time_unit(comparison),
        "colours": colours,
    }


def _far(comparison: Comparison, figure: str) -> str:
    far = near_limits(comparison, figure)[1]
    said = ", ".join(map(str, far[:3])) + (f" and {len(far) - 3} more" if len(far) > 3 else "")
    return escaped(f"above: {said}") if far else ""
