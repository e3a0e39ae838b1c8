"""The objective of each trial of a sweep whose jobs a sampler chose, and which of them is best."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from lab.config.keys import Config
from lab.config.schema import ConfigError
from lab.records import objective
from lab.records.rows import read_jsonl
from lab.sweep.index import Begun, SweepIndex, summary_of
from lab.sweep.look import job_name


@dataclass(frozen=True)
class Scores:
    """What a sampler made small, or large: the objective of each trial that has completed.

    Attributes:
        name: of the objective; empty where no sampler chose the jobs.
        values: by the job's number.
        best: that job's number; None where no trial has completed.
    """

    name: str = ""
    values: Mapping[int, float] = field(default_factory=dict)
    best: int | None = None

    @classmethod
    def of(cls, index: SweepIndex, begun: Begun) -> Self:
        if index.jobs or not index.resumable:
            return cls()
        config = next(filter(None, (load_config(path) for _, path in begun.values())), None)
        if config is None:
            return cls()
        found = {n: job_objective(path) for n, (_, path) in begun.items()}
        values = {n: value for n, value in found.items() if value is not None}
        choose = max if "hydra.sweeper.direction=maximize" in index.overrides else min
        return cls(
            config.objective.name, values, choose(values, key=values.__getitem__, default=None)
        )

    def cell(self, number: int) -> str:
        """Its objective, the best one marked."""
        mark = "* " if number == self.best else ""
        return mark + _shown(self.values[number]) if number in self.values else "-"

    def lines(self, index: SweepIndex, begun: Begun) -> list[str]:
        """Which trial is best, marked in the table; none where there is none."""
        if self.best is None:
            return []
        name = job_name(index.swept, begun[self.best][0].overrides)
        value = f"{self.name} {_shown(self.values[self.best])}"
        return [f"best     job {self.best}: {name}, {value}"]


def job_objective(folder: Path) -> float | None:
    """The objective of a job's run; None unless it has completed."""
    config, summary = load_config(folder), summary_of(folder)
    if config is None or summary.get("state") != "completed":
        return None
    return objective.value(config, summary, read_jsonl(folder / "metrics.jsonl"))


def load_config(folder: Path) -> Config | None:
    """A job's config; None where it cannot be read."""
    with suppress(ConfigError):
        return Config.load(folder / "config.yaml")
    return None


def _shown(value: float) -> str:
    return f"{value:,.4f}" if abs(value) < 100 else f"{value:,.0f}"
