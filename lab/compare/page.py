"""compare.html: one self-contained page that compares runs in a browser without a network."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lab.compare.comparison import Comparison, Entry
from lab.compare.layout import TITLES, axis_ends, layout, memory_ranges
from lab.compare.palette import palettes
from lab.compare.traces import LOSSES, Trace, first_loss, time_unit, traces_of
from lab.records.replace import MARK
from lab.tracking.text import clean, duration, number, short_names

FIGURE_HEADS = (
    "state", "steps", "peak GB", "MLX peak GB", "mean GB", "slope MB/step", "reloads", "overhead",
    "tokens/s", "time", "final loss", "loss curve",
)  # fmt: skip
EXPLAINED_HEADS = ("what grows", "held by", "its remedy")


@dataclass(frozen=True)
class Cell:
    """A cell of the table.

    Attributes:
        order: sort key within its column.
    """

    text: str
    order: float | str
    is_number: bool = True


def render(comparison: Comparison, *, folder: Path, made: datetime) -> str:
    """Render the page as HTML.

    Arguments:
        folder: of the page; the runs' folders are shown relative to it.
        made: when the runs' files were read.
    """
    from jinja2 import Environment, FileSystemLoader
    from plotly.offline import get_plotlyjs

    heads = (*FIGURE_HEADS, *(EXPLAINED_HEADS if comparison.is_explained else ()))
    ways = palettes(comparison)
    names = short_names([way.by for way in ways])
    colours = {name: way.colours for name, way in zip(names, ways, strict=True)}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        comparison=comparison,
        heads=[
            *zip(short_names(comparison.keys), comparison.keys, strict=True),
            *((name, name) for name in heads),
        ],
        rows=[
            (
                entry,
                cells(entry, is_explained=comparison.is_explained),
                clean(os.path.relpath(entry.run.folder, folder)),
            )
            for entry in comparison.entries
        ],
        switches={
            "memory": tuple(TITLES),
            "along": ("step", "time"),
            "loss": LOSSES,
            "colour": tuple(colours),
        },
        chosen={"memory": comparison.figure, "loss": first_loss(comparison)},
        mark=MARK,
        made=made.strftime("%Y-%m-%d %H:%M"),
        data=_data(comparison, traces_of(comparison)) | {"colours": colours},
        plotly=get_plotlyjs(),
    )


def _data(comparison: Comparison, traces: list[Trace]) -> dict[str, Any]:
    from plotly.graph_objects import Figure

    figure = Figure([trace.style for trace in traces], layout(comparison))
    return {
        "figure": json.loads(figure.to_json() or ""),
        "traces": [trace.packed() for trace in traces],
        "titles": TITLES,
        "room": memory_ranges(comparison),
        "last": axis_ends(comparison),
        "unit": time_unit(comparison),
    }


def cells(entry: Entry, *, is_explained: bool) -> list[Cell]:
    """The cells of a run's row after its number.

    Arguments:
        is_explained: the table says what grows.
    """
    run, figures = entry.run, entry.run.figures
    done = (*figures.reloads.items(), *figures.remedies.items())
    reloads = ", ".join(f"{count} {name}" for name, count in done)
    return [
        *map(_setting, entry.values),
        Cell(run.state, run.state, is_number=False),
        _figure(figures.steps, ",d"),
        _figure(figures.peak_process_gb, ".3f"),
        _figure(figures.peak_mlx_gb, ".3f"),
        _figure(figures.mean_process_gb, ".3f"),
        _figure(figures.slope_mb_per_step, ".4f"),
        Cell(reloads or "0", sum(figures.reloads.values())),
        _figure(figures.overhead_fraction, ".1%"),
        _figure(figures.tokens_per_second, ",.0f"),
        Cell(duration(figures.seconds), figures.seconds or 0.0),
        _figure(figures.final_loss, ".4f"),
        Cell(entry.loss_match or "-", entry.loss_match, is_number=False),
        *(_text(text) for text in (entry.run.growth if is_explained else ())),
    ]


def _text(text: str) -> Cell:
    return Cell(clean(text) or "-", text, is_number=False)


def _setting(text: str) -> Cell:
    try:
        return Cell(text, float(text))
    except ValueError:
        return Cell(text or "-", text, is_number=False)


def _figure(value: float | None, form: str) -> Cell:
    return Cell(number(value, form), -1e300 if value is None else value)
