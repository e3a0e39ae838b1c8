"""compare.png: the charts of a comparison as one figure."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lab.compare.comparison import Comparison, clipped
from lab.compare.line_traces import BAND_OPACITY, RIBBONS
from lab.compare.lines import Line
from lab.compare.losses import agreement
from lab.compare.memory import TITLES, memory_gb, threshold_of
from lab.compare.palette import BY_RUN, MANY, Palette, dashes, palettes
from lab.compare.scales import TIME_UNITS, first_loss, memory_ranges, near_limits, time_unit
from lab.compare.traces import drawn_lines, pareto_staircase
from lab.plots.columns import Columns
from lab.plots.curves import Curve, Values, thinned
from lab.plots.style import INK, MUTED, titled
from lab.records.replace import MARK
from lab.tracking.text import MEMORY_WORDS

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
        self._chosen = drawn_lines(comparison)
        self._is_thin = len(self._chosen) > MANY
        self._width = 0.7 if self._is_thin else 1.3

    def draw(self) -> None:
        comparison, figure = self._comparison, self._comparison.figure
        word = MEMORY_WORDS[figure]
        panels = (
            (self._over_steps, TITLES[figure], "step", "GB of 2³⁰ bytes"),
            (self._over_time, f"{TITLES[figure]}, over time", f"time ({self._unit})", ""),
            (
                self._front,
                f"Overhead against peak, {word}",
                "overhead (% of the time)",
                f"peak GB, {word}",
            ),
            (self._loss, f"Training loss, {first_loss(comparison)}", "step", "nats a token"),
            (self._speed, "Speed, mean of a fortieth of the run", "step", "tokens/s"),
        )
        for axes, title, x, y in panels:
            titled(axes, title, x, y)
            axes.locator_params(axis="y", nbins=6)
        for line, dash in zip(comparison.lines, dashes(comparison), strict=True):
            style = {"color": self._palette.colours[line.index], "lw": self._width}
            if line.index in self._chosen:
                self._draw_line(line, style | {"ls": STYLES[dash]})
            if (known := line.overhead_and_peak(figure)) is not None:
                self._draw_point(known, style["color"], is_full=line.state == "completed")
        self._draw_limits(figure)
        self._frame(figure)
        self._draw_legend()

    def _draw_line(self, line: Line, style: dict[str, Any]) -> None:
        comparison, figure = self._comparison, self._comparison.figure
        time = line.time / TIME_UNITS[self._unit]
        memory = line.band(lambda columns: memory_gb(columns, figure))
        smooth = comparison.is_long
        loss = line.band(lambda columns: columns.smooth("loss") if smooth else columns["loss"])
        later = len(self._chosen) - 1 - self._chosen[line.index]
        ribbon = self._width + (1.2 * later if len(self._chosen) <= RIBBONS else 0)
        for axes, x, band, width in (
            (self._over_steps, line.steps, memory, self._width),
            (self._over_time, time, memory, self._width),
            (self._loss, line.steps, loss, ribbon),
            (self._speed, line.steps, line.band(Columns.speed), self._width),
        ):
            if band.low is not None and band.high is not None:
                look = {"color": style["color"], "alpha": BAND_OPACITY, "lw": 0}
                axes.fill_between(x, band.low, band.high, **look)
            self._curve(axes, x, band.mean, style | {"lw": width})
        self._mark_reloads(line, style["color"])

    def _mark_reloads(self, line: Line, colour: str) -> None:
        """The reloads where the policy saw memory before each; of many, every n-th."""
        figure, points = self._comparison.figure, []
        for entry in line.entries:
            columns = entry.run.columns
            after, rows = memory_gb(columns, figure), columns["step"].tolist()
            known = {step: row for row, step in enumerate(rows)}
            for reload in (r for r in entry.run.reloads if r.step in known):
                row = known[reload.step]
                gb = reload.before.get(figure, after[row])
                points.append((reload.step, columns["time"][row] / TIME_UNITS[self._unit], gb))
        steps, times, gbs = (
            np.array(points[:: -(-len(points) // RELOAD_MARKS) or 1]).reshape(-1, 3).T
        )
        for axes, x in ((self._over_steps, steps), (self._over_time, times)):
            look = {"marker": "v", "edgecolors": "white", "linewidths": 0.4, "zorder": 2.5}
            axes.scatter(x, gbs, 10 if self._is_thin else 30, colour, **look)

    def _draw_limits(self, figure: str) -> None:
        """Thresholds in the colours of their lines, other limits grey; far ones only in words."""
        near, far = near_limits(self._comparison, figure)
        own = {
            threshold_of(line.entries[0].run): self._palette.colours[line.index]
            for line in self._comparison.lines
        }
        for limit in near:
            colour = own.get(limit, MUTED)
            for axes in (self._over_steps, self._over_time):
                axes.axhline(limit.gb, color=colour, lw=0.9, ls="--", zorder=1.5)
            where = {"transform": self._over_steps.get_yaxis_transform(), "va": "bottom"}
            self._over_steps.text(0.005, limit.gb, str(limit), color=colour, fontsize=7, **where)
        if far:
            above = f"above: {', '.join(map(str, far[:2]))}{', ...' if far[2:] else ''}"
            where = {"transform": self._over_steps.transAxes, "ha": "right", "va": "top"}
            self._over_steps.text(0.99, 0.99, above, color=MUTED, fontsize=7, **where)

    def _draw_point(self, known: tuple[float, float], colour: str, *, is_full: bool) -> None:
        overhead, peak = known
        style = {"edgecolors": colour, "facecolors": colour if is_full else "white"}
        self._front.scatter([overhead * 100], [peak], s=36, zorder=3, clip_on=False, **style)

    def _curve(self, axes: Axes, x: Values, y: Values, style: dict[str, Any]) -> None:
        there = ~(np.isnan(x) | np.isnan(y))
        curve = thinned(Curve(x[there], y[there]), BINS)
        axes.plot(curve.x, curve.y, **style)

    def _frame(self, figure: str) -> None:
        low, high = memory_ranges(self._comparison)[figure]
        for axes in (self._over_steps, self._over_time, self._front):
            axes.set_ylim(low, high)
        self._speed.set_ylim(0, 1.05 * self._speed.get_ylim()[1])
        self._speed.yaxis.set_major_formatter("{x:,.0f}")
        agreed = agreement(e.loss_match for e in self._comparison.entries)
        where = {"transform": self._loss.transAxes, "ha": "right", "va": "top"}
        self._loss.text(0.99, 0.97, agreed, color=MUTED, fontsize=8, **where)
        self._front.set_xlim(left=0)
        self._front.margins(x=0.05)
        steps = pareto_staircase(self._comparison.lines, figure)
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
            title=title or None,
            loc="upper left",
            alignment="left",
            fontsize=8,
            title_fontproperties={"size": 8.5, "weight": "bold"},
            frameon=False,
            borderaxespad=0,
        )


def legend_of(comparison: Comparison, palette: Palette) -> tuple[str, list[tuple[str, str, str]]]:
    """Title and rows (text, colour, dash): each line; of many each value of the palette."""
    lines, entries = comparison.lines, comparison.entries
    looks = [
        (line, palette.colours[line.index], dash)
        for line, dash in zip(lines, dashes(comparison), strict=True)
    ]
    if len(lines) <= LEGEND_ROWS:
        return "", [(line.name, colour, dash) for line, colour, dash in looks]
    if palette.by == BY_RUN:
        every = -(-len(lines) // LEGEND_ROWS)
        return f"every {every}th run", [(n.label, c, d) for n, c, d in looks[::every]]
    key = comparison.keys.index(palette.by)
    texts = {
        colour: entry.values[key] for entry, colour in zip(entries, palette.colours, strict=True)
    }
    counts = Counter(palette.colours)
    ordered = [colour for _, colour in palette.scale] or list(texts)
    return (
        f"{palette.by} ({len(entries)} runs)",
        [(f"{texts[colour] or '-'} ({counts[colour]})", colour, "solid") for colour in ordered],
    )
