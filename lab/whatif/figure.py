"""whatif.png: predicted curves beside the recorded one, and overhead against peak memory."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lab.plots.curves import Curve, thinned
from lab.plots.style import INK, MUTED, titled
from lab.whatif.recommend import Outcome, front
from lab.whatif.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = 5  # predicted ones that are drawn: of the front, evenly
COLOURS = ("#3366cc", "#dc7633", "#2e8b57", "#8e44ad", "#c0392b")
BEST, KNOWN = "#c0392b", "#1f2933"


def draw(study: Study, path: Path) -> None:
    """Draw ``whatif.png`` to ``path``.

    Raises:
        OSError: it cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({"text.parse_math": False, "axes.labelcolor": INK, "text.color": INK}):
        figure = Figure(figsize=(11, 4.2), dpi=160, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        curves, points = figure.subplots(1, 2, width_ratios=(1.35, 1))
        titles = ("Memory", "Overhead against peak memory")
        axis_names = (("step", "GB of 2³⁰ bytes"), ("overhead (% of the time)", "peak GB"))
        for axes, title, (x, y) in zip((curves, points), titles, axis_names, strict=True):
            titled(axes, title, x, y)
        _draw_curves(curves, study)
        _draw_points(points, study)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figure.savefig(path, format="png")


def _draw_curves(axes: Axes, study: Study) -> None:
    for outcome, colour in zip(_shown(study), COLOURS, strict=False):
        values = outcome.predicted.curve
        curve = thinned(Curve(np.arange(1.0, len(values) + 1), values))
        axes.plot(curve.x, curve.y, color=colour, lw=1.1, label=_name(outcome, study))
    for number, session in enumerate(study.reference.sessions):
        curve = thinned(Curve(session.steps.astype(float), session.memory(study.reference.held)))
        label = "recorded" if number == 0 else None
        axes.plot(curve.x, curve.y, color=KNOWN, lw=2.2, alpha=0.35, label=label, zorder=1)
    for budget in {outcome.budget_gb for outcome in study.outcomes}:
        _draw_budget(axes, study, budget)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False, loc="upper left")


def _name(outcome: Outcome, study: Study) -> str:
    several = len({other.budget_gb for other in study.outcomes}) > 1
    return outcome.setting.label + (f" (budget {outcome.budget_gb:g} GB)" if several else "")


def _draw_budget(axes: Axes, study: Study, budget: float) -> None:
    """A line at the budget, where memory comes near to it: else it would flatten the curves."""
    if budget < 1.5 * max(outcome.predicted.peak_gb for outcome in study.outcomes):
        axes.axhline(budget, color=MUTED, lw=1, ls="--", zorder=0)
        where = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "bottom"}
        axes.text(0.995, budget, f"budget {budget:g} GB", color=MUTED, fontsize=8, **where)


def _shown(study: Study) -> Sequence[Outcome]:
    found = front(study.outcomes)
    every = max(1, -(-len(found) // CURVES))
    best = [advice.best for advice in study.advice]
    chosen = [o for i, o in enumerate(found) if o in best or i % every == 0]
    return sorted(chosen, key=lambda o: o not in best)[:CURVES]


def _draw_points(axes: Axes, study: Study) -> None:
    points = [(100 * o.cost[0], o.predicted.peak_gb) for o in study.outcomes]
    x, y = np.array(points).T
    axes.scatter(x, y, 14, MUTED, alpha=0.6, linewidths=0, label="predicted")
    steps = [(100 * o.cost[0], o.predicted.peak_gb) for o in front(study.outcomes)]
    overheads, peaks = zip((steps[0][0], max(y)), *steps, (max(x), steps[-1][1]), strict=True)
    axes.step(overheads, peaks, where="post", color=MUTED, lw=1, ls=":", zorder=1)
    if study.checks:
        measured = [(100 * c.overhead_fraction, c.peak_gb) for c in study.checks]
        known = np.array(measured).T
        axes.scatter(*known, s=40, facecolors="none", edgecolors=KNOWN, label="measured")
    for number, advice in enumerate(study.advice):
        where = 100 * advice.best.cost[0], advice.best.predicted.peak_gb
        label = "recommended" if number == 0 else None
        axes.scatter(where[0], where[1], 60, BEST, marker="*", zorder=3, label=label)
        axes.annotate(
            advice.best.setting.label, where, (7, 5), textcoords="offset points", fontsize=8
        )
        _draw_budget(axes, study, advice.budget_gb)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False, loc="upper right")
