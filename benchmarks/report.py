"""The result of a benchmark: a table for people; the same and the raw figures as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Goal:
    """A limit that a figure must not cross."""

    limit: float
    at_most: bool = True

    def is_reached_by(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {self.limit:g}"


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        values: one measurement a round (or a step, a reload, ...); their median is the figure.
        goal: None for a figure that is only informative.
    """

    what: str
    values: Sequence[float]
    unit: str = ""
    goal: Goal | None = None

    @property
    def value(self) -> float:
        return median(self.values)

    @property
    def is_reached(self) -> bool | None:
        return None if self.goal is None else self.goal.is_reached_by(self.value)

    def cells(self) -> tuple[str, ...]:
        """Name, median, goal, verdict and range, as text."""
        spread = ""
        if len(self.values) > 1:
            low, high = rounded(min(self.values)), rounded(max(self.values))
            spread = f"{low} to {high} ({len(self.values)})"
        verdict = {None: "", True: "reached", False: "MISSED"}[self.is_reached]
        goal = "" if self.goal is None else str(self.goal)
        return self.what, f"{rounded(self.value)} {self.unit}".strip(), goal, verdict, spread

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "goal": None if self.goal is None else str(self.goal),
            "reached": self.is_reached,
            "values": list(self.values),
        }


@dataclass(frozen=True)
class Report:
    """The figures of one benchmark.

    Attributes:
        raw: anything else worth keeping, for the JSON only.
    """

    figures: Sequence[Figure]
    raw: dict[str, Any] = field(default_factory=dict)

    @property
    def is_reached(self) -> bool:
        return all(figure.is_reached is not False for figure in self.figures)

    def __str__(self) -> str:
        head = ("", "median", "goal", "", "range (of how many)")
        rows = [head, *(figure.cells() for figure in self.figures)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {
            "reached": self.is_reached,
            "figures": [figure.to_json() for figure in self.figures],
            **self.raw,
        }


def rounded(value: float) -> str:
    """A number with three or so significant digits."""
    if 0 < abs(value) < 0.001:
        return f"{value:.1e}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 3 if abs(value) < 2 else 2
    return f"{value:,.{digits}f}"
