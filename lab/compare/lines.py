"""What is drawn and judged as one: a run, or runs that only repeat each other with other seeds."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import numpy as np

from lab.compare.losses import REFERENCE
from lab.compare.memory import memory_gb
from lab.compare.read import Run
from lab.plots.columns import Columns
from lab.plots.curves import Values

REPEATING = "seed"  # the key whose values repeat a run


@dataclass(frozen=True)
class Entry:
    """One run in a comparison.

    Attributes:
        number: its job number in a sweep, else its index among the runs.
        label: number and settings, e.g. ``1: interval_steps=10``.
        values: the settings that differ, as text, in the order of the comparison's keys.
        loss_match: its loss against that of the longest run with the same learning settings:
            ``reference``, ``= NUMBER``, ``≠ NUMBER from step STEP``; empty if there is no other.
    """

    number: int
    label: str
    values: tuple[str, ...]
    loss_match: str
    run: Run

    @property
    def state(self) -> str:
        return self.run.state

    def range(self, figure: str) -> tuple[float, float] | None:
        """Lowest and highest of one memory figure in GB, just before reloads too; None without."""
        known = memory_gb(self.run.columns, figure)
        before = [r.before[figure] for r in self.run.reloads if figure in r.before]
        values = np.append(known[~np.isnan(known)], before)
        return (float(values.min()), float(values.max())) if len(values) else None

    def mean(self, figure: str) -> float | None:
        """Mean of one memory figure over the rows, in GB."""
        values = memory_gb(self.run.columns, figure)
        there = values[~np.isnan(values)]
        return float(there.mean()) if len(there) else None

    def overhead_and_peak(self, figure: str) -> tuple[float, float] | None:
        """Overhead (fraction of the time) and peak of one memory figure (GB), if both are known."""
        overhead, known = self.run.figures.overhead_fraction, self.range(figure)
        return None if overhead is None or known is None else (overhead, known[1])


@dataclass(frozen=True)
class Band:
    """A figure over the steps of a line: its mean, and lowest and highest if it has several runs.

    Arrays of shape (steps,), NaN where no run has a value.
    """

    mean: Values
    low: Values | None = None
    high: Values | None = None


@dataclass(frozen=True)
class Line:
    """A run, or the mean of several that are equal in every setting but the seed.

    Attributes:
        index: of its first run among the entries of the comparison.
        name: its settings, e.g. ``interval_steps=10``, that no other line has.
        label: the same with the number of the run, or of how many it is.
    """

    index: int
    name: str
    label: str
    entries: tuple[Entry, ...]

    @property
    def is_group(self) -> bool:
        return len(self.entries) > 1

    @property
    def state(self) -> str:
        """The state of its runs, ``mixed`` where they differ."""
        states = {entry.state for entry in self.entries}
        return states.pop() if len(states) == 1 else "mixed"

    @property
    def is_free(self) -> bool:
        """Whether no run of it reloaded, or did less than that."""
        done = (e.run.figures for e in self.entries)
        return not any((*f.reloads.values(), *f.remedies.values()) for f in done)

    @property
    def same_loss(self) -> int | None:
        """The number of the run whose whole loss a single run has, bit for bit; None if none."""
        entry, match = self.entries[0], self.entries[0].loss_match
        if self.is_group or not match:
            return None
        number = match.removeprefix("= ")
        return entry.number if match == REFERENCE else int(number) if number.isdigit() else None

    def overhead_and_peak(self, figure: str) -> tuple[float, float] | None:
        """Mean overhead and highest peak of its runs, if known of all."""
        known = [entry.overhead_and_peak(figure) for entry in self.entries]
        points = [point for point in known if point is not None]
        if len(points) < len(known):
            return None
        return fmean(overhead for overhead, _ in points), max(peak for _, peak in points)

    @cached_property
    def steps(self) -> Values:
        """The steps that any of its runs has, shape (steps,)."""
        all_steps = [entry.run.columns["step"] for entry in self.entries]
        return np.unique(np.concatenate(all_steps)) if self.is_group else all_steps[0]

    @cached_property
    def time(self) -> Values:
        """Seconds since the run began at these steps; the mean of its runs."""
        return self.band(lambda columns: columns["time"]).mean

    def band(self, of: Callable[[Columns], Values]) -> Band:
        """One figure over the steps, from the columns of each run."""
        if not self.is_group:
            return Band(of(self.entries[0].run.columns))
        table = np.full((len(self.entries), len(self.steps)), np.nan)
        for row, entry in zip(table, self.entries, strict=True):
            row[np.searchsorted(self.steps, entry.run.columns["step"])] = of(entry.run.columns)
        there = ~np.isnan(table)
        count = there.sum(0)
        with np.errstate(invalid="ignore"):
            mean = np.where(there, table, 0.0).sum(0) / count
        low, high = np.fmin.reduce(table), np.fmax.reduce(table)
        return Band(mean, low, high)


def lines_of(
    entries: Sequence[Entry], names: Sequence[str], keys: Sequence[str]
) -> tuple[Line, ...]:
    """The lines of a comparison, in the order of their first runs.

    Arguments:
        names: of the entries, without the number and the seed.
        keys: settings that differ.
    """
    found: dict[Hashable, list[int]] = {}
    for i, entry in enumerate(entries):
        found.setdefault(_sameness(entry, keys, i), []).append(i)
    groups = list(found.values())
    taken = [names[members[0]] for members in groups]
    lines = []
    for members, name in zip(groups, taken, strict=True):
        first, count = entries[members[0]], len(members)
        of_how_many = f"{count} {REPEATING}s"
        label = first.label if count == 1 else ", ".join(filter(None, (name, of_how_many)))
        unique = name and taken.count(name) == 1 and count == 1
        lines.append(
            Line(members[0], name if unique else label, label, tuple(entries[i] for i in members))
        )
    return tuple(lines)


def _sameness(entry: Entry, keys: Sequence[str], index: int) -> Hashable:
    """Equal for runs of one group: all settings but the seed, which must be one that differs."""
    if REPEATING not in keys or not entry.run.settings:
        return index
    pairs: Mapping[str, str] = dict(zip(keys, entry.values, strict=True))
    return tuple(value for key, value in pairs.items() if key != REPEATING)
