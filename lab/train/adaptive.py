"""``reload=adaptive``: the cheapest remedy that works, as late as possible. Pure functions.

A run that grows is given one remedy of a ladder at the last step after which the next one still
fits into the budget. What each rung gave back and took is remembered, so that one that gives
nothing back is not taken again for the same growth. Memory is in bytes, time in seconds; neither a
clock nor a reading is taken here.

With M the memory after a step, h what a step takes beyond that while it runs, or a reload while it
saves, g the growth a step, sigma its noise, H the steps until a remedy that works is found, and B
the budget, a remedy is due when ``M + h + g H + z sigma sqrt(H) > B``: the clairvoyant's step, but
for the noise. Memory that rises in lumps is due one lump before B. Where memory slows the steps, by
``a`` seconds a byte, a remedy of ``c`` seconds loses least time every ``sqrt(2 c / (a g))`` steps
(the square-root rule of Young 1974 for checkpoints).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lab.config.keys import Config
from lab.config.units import GB, MB
from lab.protocol import RUNGS, Rung
from lab.records.growth import Trend
from lab.train.ladder import (
    RECENT_STEPS,
    Cycle,
    Growth,
    Ladder,
    Mark,
    Observation,
    Slowing,
    Yield,
)

KEEPING_STATE: tuple[Rung, ...] = ("clear_cache", "collect")
# As seen on the tiny model, where a reload in process that freed nothing left 1 to 3 MB behind.
SAVING, FAILING = 1.0 * MB, 3.0 * MB

Z = 4.0  # of the noise: one step in 30,000 takes more
OTHER_RATE = 2.0  # growth so many times faster or slower is another one
OTHER_SHARE = 0.5  # so is one of which so much more or less lies in MLX's active memory
SLOW_STEPS = 20  # that show how memory slows steps
SLOW_SHARE = 0.25  # slower than at first, before a remedy is tried for it
SLOW_R2 = 0.5  # of the variance of the steps' seconds that memory must explain
CURED_STEPS = 10  # after a remedy, to see whether the steps are faster again


@dataclass(frozen=True)
class Limits:
    """What the policy must keep.

    Attributes:
        budget: bytes that the metric must not exceed.
        max_overhead: the part of the time that remedies may take to make steps faster.
        rungs: that may be taken.
        saving: bytes that a reload takes while it writes its checkpoint.
        failing: bytes that a reload in process may leave behind where it gives nothing back.
    """

    budget: float
    max_overhead: float
    rungs: tuple[Rung, ...] = RUNGS
    saving: float = 0.0
    failing: float = 0.0

    @classmethod
    def of(cls, config: Config) -> Limits:
        """Those of a run; without checkpoints a reload could restore nothing."""
        return cls(
            budget=config.memory.budget_gb * GB,
            max_overhead=config.reload.max_overhead,
            rungs=RUNGS if config.checkpoint.enabled else KEEPING_STATE,
            saving=SAVING,
            failing=FAILING,
        )

    def room(self, headroom: float, rungs: Sequence[Rung], ladder: Ladder) -> float:
        """Bytes after a step with which the next one, and these rungs, stay in the budget.

        A step runs or a reload saves, never both at a time.

        Arguments:
            headroom: what a step takes while it runs.
            rungs: to take one after the other.
        """
        untried = "reload_in_process" in rungs and ladder.share("reload_in_process") is None
        saves = any(rung not in KEEPING_STATE for rung in rungs)
        return self.budget - max(headroom, self.saving * saves) - self.failing * untried


@dataclass(frozen=True)
class Decision:
    """Attributes:
    rung: the remedy to take now, or None.
    ladder: what is remembered from now on.
    """

    rung: Rung | None
    ladder: Ladder


def observe(ladder: Ladder, cycle: Cycle, now: Observation) -> Ladder:
    """What is remembered after a step: its seconds, and whether a remedy made the steps faster."""
    ladder = replace(ladder, trained=ladder.trained + now.seconds)
    slowing, fit = ladder.slowing, cycle.fit
    if slowing and slowing.cured is None and fit.n >= CURED_STEPS:
        halfway = (slowing.before + slowing.at_first) / 2
        ladder = replace(ladder, slowing=replace(slowing, cured=fit.y / fit.n < halfway))
    return ladder


def decide(
    ladder: Ladder, cycle: Cycle, now: Observation, trend: Trend | None, limits: Limits
) -> Decision:
    """Which remedy to take after this step, if any.

    Arguments:
        cycle: with this step.
        trend: None while growth is not certain; that of an earlier cycle counts until it is.
    """
    growth = _growth(ladder, cycle, now, trend) or ladder.growth
    if growth is None:
        return Decision(None, ladder)
    if trend is None and not _is_seen(growth, cycle, now):
        has_ended = cycle.steps >= RECENT_STEPS
        return Decision(None, ladder.forgotten() if has_ended else ladder)
    useful = _useful(ladder, cycle, now, growth, limits.rungs)
    fitting: list[Rung] = [
        r for r in useful if _fits_after(ladder, cycle, now, growth, r, limits.budget)
    ]
    steps = _steps_needed(ladder, fitting)
    room = limits.room(cycle.headroom, fitting[:steps], ladder)
    if now.memory + _rise(cycle, growth, steps) <= room:
        return _against_slowing(ladder, cycle, now, growth, useful, limits.max_overhead)
    if ladder.growth and _is_another(growth, ladder.growth):
        return decide(ladder.forgotten(), cycle, now, trend, limits)
    return (
        Decision(fitting[0], replace(ladder, growth=growth)) if fitting else Decision(None, ladder)
    )


def _useful(
    ladder: Ladder, cycle: Cycle, now: Observation, growth: Growth, rungs: Sequence[Rung]
) -> list[Rung]:
    """The rungs that would give back more than a step takes, in the order to take them in.

    A rung is taken before a dearer one where its own seconds a byte are at most the average of the
    dearer one's cycle if that ended now. So one that gives back a part is taken as long as that
    postpones the dearer one worth its cost (Charnov's marginal value theorem).
    """
    least = _taken_by(growth)
    left: list[Rung] = [
        rung
        for rung in rungs
        if _expected(ladder, cycle, now, rung) >= least and not ladder.skips(rung)
    ]
    order: list[Rung] = []
    while left:
        best = left[-1]
        for rung in reversed(left[:-1]):
            expected = _expected(ladder, cycle, now, rung)
            if ladder.seconds(rung) / expected <= _average(ladder, cycle, now, best):
                best = rung
        left.remove(best)
        order.append(best)
    return order


def _average(ladder: Ladder, cycle: Cycle, now: Observation, rung: Rung) -> float:
    """Seconds a byte of a rung's cycle if it ended now, what cheaper rungs did in it included."""
    mark = cycle.marks[rung]
    gained = _expected(ladder, cycle, now, rung) + mark.freed
    return (ladder.seconds(rung) + mark.spent) / gained


def _fits_after(
    ladder: Ladder, cycle: Cycle, now: Observation, growth: Growth, rung: Rung, budget: float
) -> bool:
    left = now.memory - _expected(ladder, cycle, now, rung)
    return left + cycle.headroom + _taken_by(growth) <= budget


def _taken_by(growth: Growth, steps: int = 1) -> float:
    """Bytes that so many steps take at most, but for one time in 30,000."""
    return growth.bytes_per_step * steps + Z * growth.noise * math.sqrt(steps)


def _rise(cycle: Cycle, growth: Growth, steps: int) -> float:
    """Bytes that memory rises by in so many steps at most, in lumps too."""
    in_lumps = cycle.lump + growth.bytes_per_step * (steps - 1)
    return max(_taken_by(growth, steps), in_lumps)


def learn(
    ladder: Ladder,
    cycle: Cycle | None,
    rung: Rung,
    before: Observation,
    seconds: float,
    *,
    after: Observation,
) -> tuple[Ladder, Cycle]:
    """What a remedy did, known after the first step that follows: earlier, activations are missing.

    Arguments:
        cycle: as of the decision; None in a process that did not see it.
    """
    step = ladder.growth.bytes_per_step if ladder.growth else 0.0
    freed = before.memory + step - after.memory
    grew = before.memory + step - cycle.marks[rung].memory if cycle else freed
    works = freed > (_taken_by(ladder.growth) if ladder.growth else 0.0)
    share = min(freed / max(grew, freed), 1.0) if works else 0.0
    known = ladder.rungs.get(rung)
    cost = max(seconds, 0.0)
    slowing = ladder.slowing if works or _is_settled(ladder.slowing) else None
    ladder = replace(
        ladder,
        rungs={**ladder.rungs, rung: known.used(share, cost) if known else Yield(share, cost)},
        slowing=slowing,
        spent=ladder.spent + cost,
    )
    return ladder, _next_cycle(cycle, rung, after, freed=freed if works else 0.0, spent=cost)


def _is_settled(slowing: Slowing | None) -> bool:
    return slowing is not None and slowing.cured is not None


def _next_cycle(
    cycle: Cycle | None, rung: Rung, after: Observation, *, freed: float, spent: float
) -> Cycle:
    if cycle is None or rung == "reload_process":
        return Cycle.of(after)
    marks: dict[Rung, Mark] = {}
    for above, mark in cycle.marks.items():
        is_above = RUNGS.index(above) > RUNGS.index(rung)
        more = replace(mark, freed=mark.freed + freed, spent=mark.spent + spent)
        marks[above] = more if is_above else Mark(after.memory)
    if not freed:
        return replace(cycle.add(after), marks=marks)
    return cycle.after_remedy(after, marks)


def _growth(ladder: Ladder, cycle: Cycle, now: Observation, trend: Trend | None) -> Growth | None:
    if trend is None or trend.bytes_per_step <= 0:
        return None
    grew, active = now.memory - cycle.first.memory, now.active - cycle.first.active
    noise = cycle.noise
    if noise is None:
        noise = ladder.growth.noise if ladder.growth else 0.0
    return Growth(trend.bytes_per_step, noise, active / max(grew, 1))


def _is_another(growth: Growth, known: Growth) -> bool:
    ratio = growth.bytes_per_step / known.bytes_per_step
    moved = abs(growth.active - known.active)
    return not 1 / OTHER_RATE <= ratio <= OTHER_RATE or moved > OTHER_SHARE


def _is_seen(growth: Growth, cycle: Cycle, now: Observation) -> bool:
    """Whether memory rose of late by half of what growth of an earlier cycle adds, or more."""
    step, memory = cycle.recent[0]
    expected = growth.bytes_per_step * (cycle.steps - step)
    return now.memory - memory + Z * growth.noise >= expected / 2


def _expected(ladder: Ladder, cycle: Cycle, now: Observation, rung: Rung) -> float:
    """Bytes that a rung would give back now; one that was not tried: all that grew."""
    share, grew = ladder.share(rung), now.memory - cycle.marks[rung].memory
    expected = grew * (1.0 if share is None else share)
    return min(expected, now.cache) if rung == "clear_cache" else expected


def _steps_needed(ladder: Ladder, order: Sequence[Rung]) -> int:
    """Steps until a remedy that works is found: each that was not tried takes one to be seen."""
    for untried, rung in enumerate(order):
        if ladder.share(rung) is not None:
            return untried + 1
    return max(len(order), 1)


def _against_slowing(
    ladder: Ladder,
    cycle: Cycle,
    now: Observation,
    growth: Growth,
    order: Sequence[Rung],
    max_overhead: float,
) -> Decision:
    """A remedy where memory slows steps: every ``sqrt(2 c / (a g))`` steps, within the overhead."""
    slowing = ladder.slowing or _slowing(cycle, now)
    if slowing is None or slowing.cured is False or not order:
        return Decision(None, ladder)
    rung = order[0]
    cost = ladder.seconds(rung)
    interval = math.sqrt(2 * cost / (slowing.seconds_per_byte * growth.bytes_per_step))
    too_dear = ladder.spent + cost > max_overhead * ladder.trained
    waits = ladder.slowing is not None and slowing.cured is None
    if cycle.steps < interval or too_dear or waits:
        return Decision(None, ladder)
    return Decision(rung, replace(ladder, growth=growth, slowing=slowing))


def _slowing(cycle: Cycle, now: Observation) -> Slowing | None:
    """How memory slows steps, where it plainly does."""
    if cycle.fit.n < SLOW_STEPS:
        return None
    at_first, slope, explained = cycle.fit.line()
    extra = slope * (now.memory - cycle.first.memory)
    plain = slope > 0 and at_first > 0 and explained >= SLOW_R2
    if not plain or extra < SLOW_SHARE * at_first:
        return None
    return Slowing(slope, before=at_first + extra, at_first=at_first)
