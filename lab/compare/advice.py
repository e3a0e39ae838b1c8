"""One sentence of answer: which setting stays within its limits with the least overhead."""

from __future__ import annotations

from dataclasses import dataclass

from lab.compare.comparison import Comparison
from lab.compare.lines import Line
from lab.compare.memory import Limit, limits_of
from lab.tracking.text import MEMORY_WORDS

ALIKE = 0.02  # by which the memory of two processes differs that do the same


@dataclass(frozen=True)
class Judgement:
    """A completed line: its overhead (fraction), its peak of the shown figure, its worst limit.

    Attributes:
        limit: the one of its limits that it comes closest to, or exceeds most.
        limit_peak: the peak of that limit's figure, in GB.
    """

    line: Line
    overhead: float
    peak: float
    limit: Limit
    limit_peak: float

    @property
    def is_within(self) -> bool:
        return self.limit_peak <= self.limit.gb

    @property
    def margin(self) -> str:
        word = MEMORY_WORDS[self.limit.figure]
        return f"its {word} memory peaks at {self.limit_peak:.3f} GB"


def advice(comparison: Comparison) -> str:
    """Which setting to choose, or why that cannot be told: one line."""
    if comparison.caveats:
        return f"Which to choose cannot be told: {comparison.caveats[0]}."
    judged = [j for line in comparison.lines if (j := judge(line, comparison.figure)) is not None]
    if not judged:
        return "Which to choose cannot be told: no run is complete, with memory and limits known."
    within = [j for j in judged if j.is_within]
    if not within:
        return _none_within(judged)
    free = [j for j in judged if j.line.is_free]
    if free and all(j.is_within for j in free):
        return _none_needed(free) + _lower(judged, comparison.figure, least(free))
    best = least(within)
    alone = "" if free else " Nothing here ran without reloads."
    said = (
        f"{best.line.name} stays within the {best.limit.said} with the least overhead, "
        f"{best.overhead:.1%}: {best.margin}."
    )
    return said + alone + _lower(judged, comparison.figure, best)


def judge(line: Line, figure: str) -> Judgement | None:
    """Judge a line; None if it is not complete, or its figures or limits are not known."""
    point = line.overhead_and_peak(figure)
    if line.state != "completed" or point is None:
        return None
    held = []
    for limit in (limit for entry in line.entries for limit in limits_of(entry.run)):
        known = line.overhead_and_peak(limit.figure)
        if known is None or limit.gb <= 0:
            return None
        held.append((known[1] / limit.gb, known[1], limit))
    if not held:
        return None
    _, peak, limit = max(held, key=lambda one: one[0])
    return Judgement(line, *point, limit, peak)


def least(judged: list[Judgement]) -> Judgement:
    """The one with the least overhead, of equal ones that with the lowest peak."""
    return min(judged, key=lambda j: (j.overhead, j.peak))


def _none_within(judged: list[Judgement]) -> str:
    near = min(judged, key=lambda j: j.limit_peak / j.limit.gb)
    return (
        f"No run stays within the {near.limit.said}. "
        f"The closest is {near.line.name}: {near.margin}."
    )


def _none_needed(free: list[Judgement]) -> str:
    near = max(free, key=lambda j: j.limit_peak / j.limit.gb)
    runs = sum(len(j.line.entries) for j in free)
    those = f"all {runs} runs" if runs > 1 else "the run"
    word = MEMORY_WORDS[near.limit.figure]
    return (
        f"No reload is needed: {those} without any stay{'' if runs > 1 else 's'} within the "
        f"{near.limit.said} ({word} memory peaks at {near.limit_peak:.3f} GB)."
    )


def _lower(judged: list[Judgement], figure: str, chosen: Judgement) -> str:
    """What keeps memory lowest, where it is plainly lower than with what was chosen."""
    low = min(judged, key=lambda j: (j.peak, j.overhead))
    if low.peak > (1 - ALIKE) * chosen.peak:
        return ""
    return (
        f" Memory is lowest with {low.line.name}: {MEMORY_WORDS[figure]} peaks at "
        f"{low.peak:.3f} GB, not {chosen.peak:.3f}, for {low.overhead:.1%} overhead, "
        f"not {chosen.overhead:.1%}."
    )
