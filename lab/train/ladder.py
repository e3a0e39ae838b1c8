"""What ``reload=adaptive`` knows: of a step, of a worker process so far, and of the rungs' yields.

The :class:`Ladder` is what is remembered, in every checkpoint; a :class:`Cycle` is what a process
has seen since its last remedy, and is lost with it. What follows from them is decided in
:mod:`lab.train.adaptive`. Memory is in bytes, time in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lab.config.schema import setting
from lab.protocol import RUNGS, Rung
from lab.records.slope import median

# Before a rung was measured it is taken to give everything back, for so many seconds: in this order
# they are tried.
PRIOR_SECONDS: dict[Rung, float] = {
    "clear_cache": 0.001,
    "collect": 0.05,
    "reload_in_process": 0.3,
    "reload_process": 1.0,
}

RECENT_STEPS = 20  # in which growth of an earlier cycle must be seen again, or has ended
ALIKE, SINGLE = 1.25, 2.0  # times the third largest rise: at most alike, at least a single event
SETTLED = 10  # steps after which a process, or a reload in it, has filled what it works with
NOISE_STEPS, FEW_STEPS = 64, 8  # that noise is taken from, and below which it is not known


@dataclass(frozen=True)
class Observation:
    """A step as the policy sees it.

    Attributes:
        memory: the chosen metric after the step.
        active, cache: of MLX.
        headroom: what the step took while it ran, beyond ``memory``.
        seconds: that it took.
    """

    memory: int
    active: int
    cache: int
    headroom: int
    seconds: float


@dataclass(frozen=True)
class Growth:
    """The growth that the rungs' yields were measured for.

    Attributes:
        bytes_per_step: as of a :class:`Trend`.
        noise: standard deviation of one step's reading about the trend, in bytes.
        active: the part of it in MLX's active memory, about 0 to 1.
    """

    bytes_per_step: float = setting(above=0)
    noise: float = setting(at_least=0)
    active: float = setting()


@dataclass(frozen=True)
class Yield:
    """What a rung does.

    Attributes:
        share: of what grew since its last use, the part that it gave back; None if not tried for
            this growth.
        seconds: that it takes, the mean of all its uses: a cycle's average is compared with it, and
            one slow reload would make a dearer rung look cheap.
        uses: how often it was taken.
    """

    share: float | None = setting(at_least=0, at_most=1)
    seconds: float = setting(at_least=0)
    uses: int = setting(1, at_least=1)

    def used(self, share: float, seconds: float) -> Yield:
        """With one more use."""
        uses = self.uses + 1
        return Yield(share, self.seconds + (seconds - self.seconds) / uses, uses)


@dataclass(frozen=True)
class Slowing:
    """How memory slows steps, found before a remedy that was tried for it.

    Attributes:
        seconds_per_byte: that a step takes longer.
        before: seconds of a step just before the remedy.
        at_first: seconds of a step without the growth, as estimated.
        cured: whether the steps after it were faster; None while that is not known.
    """

    seconds_per_byte: float = setting(above=0)
    before: float = setting()
    at_first: float = setting()
    cured: bool | None = None


@dataclass(frozen=True)
class Ladder:
    """What the policy remembers; saved with the progress, so it survives a reload and a death.

    Attributes:
        growth: what the shares of ``rungs`` are true for, as of the last remedy.
        rungs: by name.
        slowing: None where memory was not seen to slow steps.
        trained: seconds of all steps.
        spent: seconds of all remedies.
        foreseen: the cheapest rung that works, as a census found; None while there was none.
    """

    growth: Growth | None = None
    rungs: dict[str, Yield] = field(default_factory=dict)
    slowing: Slowing | None = None
    trained: float = setting(0.0, at_least=0)
    spent: float = setting(0.0, at_least=0)
    foreseen: str | None = setting(None, choices=RUNGS)

    def seconds(self, rung: Rung) -> float:
        known = self.rungs.get(rung)
        return known.seconds if known else PRIOR_SECONDS[rung]

    def share(self, rung: str) -> float | None:
        known = self.rungs.get(rung)
        return known.share if known else None

    def skips(self, rung: Rung) -> bool:
        """Whether a rung need not be tried: it is below the foreseen one, and that did not fail."""
        if self.foreseen is None or self.share(self.foreseen) == 0:
            return False
        return self.share(rung) is None and RUNGS.index(rung) < RUNGS.index(self.foreseen)

    def forgotten(self) -> Ladder:
        """For another growth: every rung may be tried again; what it takes stays known."""
        rungs = {name: replace(known, share=None) for name, known in self.rungs.items()}
        return replace(self, growth=None, rungs=rungs, slowing=None, foreseen=None)


@dataclass(frozen=True)
class Mark:
    """Since a rung, or one above it, was used last.

    Attributes:
        memory: the lowest since.
        freed, spent: bytes and seconds of the rungs below it since.
    """

    memory: int
    freed: float = 0.0
    spent: float = 0.0


@dataclass(frozen=True)
class Fit:
    """Least squares of steps' seconds over memory, as sums: memory counts from the first step's."""

    n: int = 0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    yy: float = 0.0

    def add(self, x: float, y: float) -> Fit:
        if self.n:
            y = min(y, 4 * self.y / self.n)  # a step that waited for something else
        return Fit(
            self.n + 1, self.x + x, self.y + y, self.xx + x * x, self.xy + x * y, self.yy + y * y
        )

    def line(self) -> tuple[float, float, float]:
        """Intercept, slope and the part of the variance that the line explains."""
        sxx, syy = self.xx - self.x**2 / self.n, self.yy - self.y**2 / self.n
        sxy = self.xy - self.x * self.y / self.n
        if sxx <= 0 or syy <= 0:
            return self.y / self.n, 0.0, 0.0
        slope = sxy / sxx
        return (self.y - slope * self.x) / self.n, slope, sxy**2 / (sxx * syy)


@dataclass(frozen=True)
class Cycle:
    """What a worker process has seen; a remedy begins the next one.

    Attributes:
        first: the first step of the cycle.
        steps: of the cycle.
        headroom: the largest of this process.
        marks: of every rung.
        recent: number and memory of two steps of the cycle, 20 apart; the older is compared with.
        fit: of the seconds of the steps, but for the first two.
        highest: memory so far, once it has settled.
        rises: the three largest of this process by which a step passed the highest, largest first.
        changes: of memory from step to step, the most recent of this process.
        last: memory after the last step.
    """

    first: Observation
    steps: int
    headroom: int
    marks: Mapping[Rung, Mark]
    recent: tuple[tuple[int, int], tuple[int, int]]
    fit: Fit = Fit()
    highest: int = 0
    rises: tuple[int, int, int] = (0, 0, 0)
    changes: tuple[int, ...] = ()
    last: int = 0

    @classmethod
    def of(cls, first: Observation) -> Cycle:
        """The first one of a process."""
        marks: Mapping[Rung, Mark] = dict.fromkeys(RUNGS, Mark(first.memory))
        recent = ((1, first.memory), (1, first.memory))
        return cls(first, 1, first.headroom, marks, recent)

    def after_remedy(self, first: Observation, marks: Mapping[Rung, Mark]) -> Cycle:
        """The one that begins after a remedy that left the process."""
        return replace(
            Cycle.of(first),
            headroom=max(self.headroom, first.headroom),
            marks=marks,
            rises=self.rises,
            changes=self.changes,
        )

    @property
    def noise(self) -> float | None:
        """Standard deviation of one reading about the trend; None while steps are few.

        From how the changes from one reading to the next deviate, as of normal ones: two readings
        make a change. The largest sixteenth is left out, for a single event of any size is no
        noise; without it the mean deviation of normal ones is 0.7 of the standard deviation.
        """
        if len(self.changes) < FEW_STEPS:
            return None
        usual = median(self.changes)
        deviations = sorted(abs(change - usual) for change in self.changes)
        kept = deviations[: -max(len(deviations) // 16, 1)]
        return sum(kept) / len(kept) / 0.7 / 2**0.5

    @property
    def lump(self) -> int:
        """Bytes by which memory may rise at once, as it did three times; 0 where it did not.

        Noise about a trend says little of memory that stands still and then rises by many steps'
        growth, or of a table that doubles. A rise more than twice the third largest was a single
        event, such as a validation. Where the three are alike they are lumps, which may grow.
        """
        least = self.rises[-1]
        largest = next(rise for rise in self.rises if rise <= SINGLE * least)
        return 2 * largest - least if largest <= ALIKE * least else largest

    def add(self, now: Observation) -> Cycle:
        """The cycle with one more step."""
        marks: Mapping[Rung, Mark] = self.marks
        if any(now.memory < mark.memory for mark in marks.values()):
            marks = {r: replace(m, memory=min(m.memory, now.memory)) for r, m in marks.items()}
        recent, fit, steps = self.recent, self.fit, self.steps + 1
        highest, rises, changes = self.highest, self.rises, self.changes
        if steps - recent[1][0] >= RECENT_STEPS:
            recent = recent[1], (steps, now.memory)
        if steps > 2:
            fit = fit.add(now.memory - self.first.memory, now.seconds)
            changes = (*changes[1 - NOISE_STEPS :], now.memory - self.last)
        if steps >= SETTLED:
            if highest and now.memory - highest > rises[-1]:
                first, second, third = sorted((*rises[:2], now.memory - highest), reverse=True)
                rises = first, second, third
            highest = max(highest, now.memory)
        return replace(
            self,
            steps=steps,
            headroom=max(self.headroom, now.headroom),
            marks=marks,
            recent=recent,
            fit=fit,
            highest=highest,
            rises=rises,
            changes=changes,
            last=now.memory,
        )
