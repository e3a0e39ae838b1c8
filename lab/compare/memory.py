"""The memory figures of a comparison: their words, who watches which, and the limits on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lab.compare.read import Run
from lab.plots.columns import Columns
from lab.plots.curves import Values

FIGURES = ("process", "mlx", "active", "cache", "peak")

TITLES = {
    "process": "Memory of the process",
    "mlx": "MLX memory, active + cache",
    "active": "MLX active memory",
    "cache": "MLX cache",
    "peak": "MLX peak memory of each step",
}
BY_THRESHOLD = ("threshold", "interval_or_threshold")  # policies


@dataclass(frozen=True)
class Limit:
    """A bound that a run has on one of its memory figures, in GB."""

    name: str
    gb: float
    figure: str

    def __str__(self) -> str:
        return f"{self.name} {self.gb:.4g} GB"

    @property
    def said(self) -> str:
        return f"{self.name} of {self.gb:.4g} GB"


def memory_gb(columns: Columns, figure: str) -> Values:
    """One memory figure in GB, shape (rows,), NaN where a row has none."""
    if figure == "mlx":
        return columns["memory/active_gb"] + columns["memory/cache_gb"]
    return columns[f"memory/{figure}_gb"]


def watched(runs: Iterable[Run]) -> str:
    """The figure that the policies of all runs watch; ``process`` where they differ or none is."""
    policies = (run.settings for run in runs if run.settings.get("reload.policy") != "none")
    metrics = {str(settings.get("reload.metric", "process")) for settings in policies}
    return metrics.pop() if len(metrics) == 1 and metrics <= set(FIGURES) else "process"


def threshold_of(run: Run) -> Limit | None:
    """Where the run's policy reloads; None if it has no threshold."""
    settings = run.settings
    gb, metric = settings.get("reload.memory_threshold_gb"), settings.get("reload.metric")
    if settings.get("reload.policy") not in BY_THRESHOLD or not isinstance(gb, int | float):
        return None
    return Limit("threshold", gb, str(metric)) if gb > 0 and metric in FIGURES else None


def limits_of(run: Run) -> tuple[Limit, ...]:
    """The run's budget, and its objective's limit where that is another."""
    budget, limit, metric = (
        run.settings.get(key)
        for key in ("memory.budget_gb", "objective.memory_limit_gb", "reload.metric")
    )
    found = []
    if isinstance(budget, int | float):
        found.append(Limit("budget", budget, run.budget_figure))
    if isinstance(limit, int | float) and limit != budget and metric in FIGURES:
        found.append(Limit("limit", limit, str(metric)))
    return tuple(found)
