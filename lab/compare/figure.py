"""compare.png: the charts of a comparison as one figure."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lab.compare.comparison import Comparison, Entry, agreement, clipped
from lab.compare.layout import TITLES, memory_ranges
from lab.compare.palette import BY_RUN, MANY, Palette, dashes, palettes
from lab.compare.traces import RIBBONS, TIME_UNITS, first_loss, pareto_staircase, time_unit
from lab.plots.curves import Curve, Values, thinned
from lab.plots.style import INK, MUTED, titled
from lab.records.replace import MARK
from lab.tracking.text import short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 300
LEGEND_ROWS = 16
RELOAD_MARKS = 40  # of one run
STYLES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}


def draw(comparison: Comparison, path: Path) -> None:
    """Draw ``compare.png`` to ``path``.

    Raises:
        OSError: it cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Names may hold what TeX would take for a formula, and letters that the font does not have.
    with mpl.rc_context({"text.parse_math": False, "axes.labelcolor": INK, "text.color": INK}):
        figure = Figure(figsize=(12, 6.6), dpi=200, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        _Charts(comparison, figure.subplots(2, 3, width_ratios=(1.15, 1.15, 0.9))).draw()
        figure.suptitle(
            clipped(comparison.title, 100), x=0.005, ha="left", fontsize=11, fontweight="bold"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figure.savefig(path, format="png", metadata={"Software": MARK})


class _Charts:
    def __init__(self, comparison: Comparison, axes: Any) -> None:
        self._comparison = comparison
        (self._over_steps, self._over_time, self._front), (self._loss, self._speed, _) = axes
        self._legend_at = axes[1][2]
        self._palette = palettes(comparison)[0]
        self._unit = time_unit(comparison)
        self._width = 1.3 if len(comparison.entries) <= MANY else 0.7

    def draw(self) -> None:
        figure = self._comparison.figure
        panels = (
            (self._over_steps, TITLES[figure], "step", "GB of 2³⁰ bytes"),
            (self._over_time, f"{TITLES[figure]}, over time", f"time ({self._unit})", ""),
            (self._front, "Overhead against peak memory", "overhead (% of the time)", "peak GB"),
            (self._loss, f"Training loss, {first_loss(self._comparison)}", "step", "nats a token"),
            (self._speed, "Speed, mean of a fortieth of the run", "step", "tokens/s"),
        )
        for axes, title, x, y in panels:
            titled(axes, title, x, y)
            axes.locator_params(axis="y", nbins=6)
        lines = zip(
            self._comparison.entries, self._palette.colours, dashes(self._comparison), strict=True
        )
        for index, (entry, colour, dash) in enumerate(lines):
            self._draw_run(index, entry, {"color": colour, "ls": STYLES[dash], "lw": self._width})
        self._frame(figure)
        self._draw_legend()

    def _draw_run(self, index: int, entry: Entry, style: dict[str, Any]) -> None:
        columns, figure = entry.run.columns, self._comparison.figure
        steps, memory = columns["step"], columns[f"memory/{figure}_gb"]
        marked = np.flatnonzero(np.isin(steps, [reload.step for reload in entry.run.reloads]))
        marked = marked[:: max(1, -(-len(marked) // RELOAD_MARKS))]
        time = columns["time"] / TIME_UNITS[self._unit]
        for axes, x in ((self._over_steps, steps), (self._over_time, time)):
            self._line(axes, x, memory, style)
            self._mark(axes, x[marked], memory[marked], style["color"])
        loss = columns.smooth("loss") if self._comparison.is_long else columns["loss"]
        count = len(self._comparison.entries)
        ribbon = self._width + (1.2 * (count - 1 - index) if count <= RIBBONS else 0)
        self._line(self._loss, steps, loss, style | {"lw": ribbon})
        self._line(self._speed, steps, columns.speed(), style)
        if (known := entry.overhead_and_peak(figure)) is not None:
            self._draw_point(known, style["color"], is_full=entry.run.state == "completed")

    def _mark(self, axes: Axes, x: Values, y: Values, colour: str) -> None:
        size = 30 if len(self._comparison.entries) <= MANY else 10
        axes.scatter(x, y, size, colour, marker="v", edgecolors="white", linewidths=0.4, zorder=2.5)

    def _draw_point(self, known: tuple[float, float], colour: str, *, is_full: bool) -> None:
        overhead, peak = known
        style = {"edgecolors": colour, "facecolors": colour if is_full else "white"}
        self._front.scatter([overhead * 100], [peak], s=36, zorder=3, clip_on=False, **style)

    def _line(self, axes: Axes, x: Values, y: Values, style: dict[str, Any]) -> None:
        there = ~(np.isnan(x) | np.isnan(y))
        curve = thinned(Curve(x[there], y[there]), BINS)
        axes.plot(curve.x, curve.y, **style)

    def _frame(self, figure: str) -> None:
        low, high = memory_ranges(self._comparison)[figure]
        for axes in (self._over_steps, self._over_time, self._front):
            axes.set_ylim(low, high)
        self._speed.set_ylim(0, 1.05 * self._speed.get_ylim()[1])
        self._speed.yaxis.set_major_formatter("{x:,.0f}")
        agreed = agreement(self._comparison.entries)
        where = {"transform": self._loss.transAxes, "ha": "right", "va": "top"}
        self._loss.text(0.99, 0.97, agreed, color=MUTED, fontsize=8, **where)
        self._front.set_xlim(left=0)
        self._front.margins(x=0.05)
        steps = pareto_staircase(self._comparison.entries, figure)
        if steps:
            x, y = zip(*steps, strict=True)
            self._front.step(
                [100 * share for share in x], y, where="post", color=MUTED, lw=1, ls=":", zorder=1
            )

    def _draw_legend(self) -> None:
        from matplotlib.lines import Line2D

        title, rows = legend_of(self._comparison, self._palette)
        self._legend_at.axis("off")
        self._legend_at.legend(
            [Line2D([], [], color=colour, ls=STYLES[dash], lw=2) for _, colour, dash in rows],
            [text for text, *_ in rows],
            title=title,
            loc="upper left",
            alignment="left",
            fontsize=8,
            title_fontproperties={"size": 8.5, "weight": "bold"},
            frameon=False,
            borderaxespad=0,
        )


def legend_of(comparison: Comparison, palette: Palette) -> tuple[str, list[tuple[str, str, str]]]:
    """Title and rows (text, colour, dash): each run; for many runs each value of the palette."""
    entries = comparison.entries
    looks = zip(entries, palette.colours, dashes(comparison), strict=True)
    if len(entries) <= LEGEND_ROWS:
        texts = [entry.short.partition(": ")[2] for entry in entries]
        if len(set(texts)) < len(texts) or not comparison.named_by:
            texts = [entry.short for entry in entries]
        title = ", ".join(short_names(comparison.named_by))
        return title, [(t, c, d) for t, (_, c, d) in zip(texts, looks, strict=True)]
    if palette.by == BY_RUN:
        every = -(-len(entries) // LEGEND_ROWS)
        return f"every {every}th run", [(e.label, c, d) for e, c, d in list(looks)[::every]]
    key = comparison.keys.index(palette.by)
    texts = {colour: entry.values[key] for entry, colour, _ in looks}
    counts = Counter(palette.colours)
    ordered = [colour for _, colour in palette.scale] or list(texts)
    return (
        f"{palette.by} ({len(entries)} runs)",
        [(f"{texts[colour] or '-'} ({counts[colour]})", colour, "solid") for colour in ordered],
    )
