"""A model of a run's memory: what a session begins with, and how it grows from there.

Each part of the process's memory (MLX's arrays, MLX's cache, all else) is the sum of four things:
the level that a session begins with, a warm-up, growth, and the ripple of single steps (a long
batch, a validation, a cleared cache), which belongs to the step. :mod:`lab.whatif.fitting` takes
them from recorded sessions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lab.protocol import RUNGS, Rung
from lab.records.slope import WARM_UP_STEPS
from lab.whatif.cures import Cure
from lab.whatif.recorded import PARTS, Kind, Values
from lab.whatif.shapes import Shapes


@dataclass(frozen=True)
class Level:
    """What a session begins with, in GB: ``own``, and the share ``kept`` of what was there before.

    A reload that gives everything back keeps nothing; one that gives nothing back keeps all.
    """

    own: float
    kept: float = 0.0
    least: float = -np.inf  # where something is kept: what a run without growth has

    def after(self, before: float | None) -> float:
        return max(self.own + self.kept * (before or 0.0), self.least)


@dataclass(frozen=True)
class Part:
    """One part of the process's memory, in GB; arrays over ages and steps begin with the first.

    Attributes:
        levels: by what a session began with.
        warm_up: by the same, shape (WARM_UP_STEPS,), added to the growth; its last value stays.
        growth: since the first step of a session or, where ``by_step``, of the run; shape (steps,).
        by_step: growth began, or became faster, at some step of the run and not of a session.
        ripple: of each step of the run, shape (steps,).
        first: the longest recorded first session: no model is needed for it.
        ceiling: no reading is above it.
    """

    levels: Mapping[Kind, Level]
    warm_up: Mapping[Kind, Values]
    growth: Values
    by_step: bool
    ripple: Values
    first: Values
    ceiling: float

    def curve(self, start: int, kind: Kind, before: float | None, count: int) -> Values:
        """GB after each of ``count`` steps of a session that follows step ``start``."""
        level = self.levels[kind].after(before)
        found = level + self.rise(start, kind, count) + self.ripple[start : start + count]
        if start == 0:
            known = min(count, len(self.first))
            last = slice(max(known - WARM_UP_STEPS, 0), known)
            found += float(np.mean(self.first[last] - found[last]))
            found[:known] = self.first[:known]
        return np.minimum(found, self.ceiling)

    def rise(self, start: int, kind: Kind, count: int) -> Values:
        """GB by which each of these steps is above the session's level: warm-up and growth."""
        warm = self.warm_up[kind][np.minimum(np.arange(count), WARM_UP_STEPS - 1)]
        at = start if self.by_step else 0
        return warm + self.growth[at : at + count] - self.growth[at]


@dataclass(frozen=True)
class Origin:
    """Where the present curve of a part began.

    Attributes:
        start: the step before its first one.
        before: GB of the part after that step; None at the run's start.
    """

    start: int = 0
    kind: Kind = "first"
    before: float | None = None


@dataclass(frozen=True)
class MemoryModel:
    """Predicts the memory of a session that begins anywhere in a run.

    Attributes:
        steps: how far it predicts.
        shapes: how MLX's cache grows, where batches of many shapes make it grow.
        assumed: methods of reloading that no recorded run used: what they give back is assumed.
        cure: the least that gives the growth back, where a recorded run tells; what a rung below it
            gives back beyond the cache is nothing.
    """

    steps: int
    parts: Mapping[str, Part]
    shapes: Shapes | None
    assumed: frozenset[Kind]
    cure: Cure | None

    def memory(self, start: int, origins: Mapping[str, Origin], count: int) -> dict[str, Values]:
        """GB by part after each of ``count`` steps that follow step ``start``.

        Arguments:
            origins: by part, none after ``start``.
        """
        found = {}
        for name, part in self.parts.items():
            origin = origins[name]
            since = start - origin.start
            values = part.curve(origin.start, origin.kind, origin.before, since + count)
            if name == "cache" and self.shapes is not None:
                known = len(part.first) if origin.start == 0 else 0
                grown = self.shapes.cache_of(origin.start, since + count)
                values[known:] = np.minimum(grown, part.ceiling)[known:]
            found[name] = values[since:]
        return found

    def origins_after(
        self, rung: Rung, step: int, before: Mapping[str, float], origins: Mapping[str, Origin]
    ) -> dict[str, Origin]:
        """Where each part's curve begins after a remedy that follows a step.

        A lesser rung empties the cache, and gives the rest back only where it is known to.

        Arguments:
            before: GB by part after the step.
        """
        kind: Kind = "process" if rung == "reload_process" else "in_process"
        is_lesser = RUNGS.index(rung) < RUNGS.index("reload_in_process")
        cures = self.cure is not None and RUNGS.index(self.cure.rung) <= RUNGS.index(rung)
        renewed = ("cache",) if is_lesser and not cures else PARTS
        return {**origins, **{part: Origin(step, kind, before[part]) for part in renewed}}
