"""A run as pure Python: memory of some kinds grows, rungs give each of them back or not."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from lab.config.units import MB
from lab.protocol import RUNGS, Rung
from lab.records.growth import Trend
from lab.train.adaptive import Limits, decide, learn, observe
from lab.train.ladder import Cycle, Ladder, Observation

SECONDS: dict[Rung, float] = {
    "clear_cache": 0.002,
    "collect": 0.02,
    "reload_in_process": 0.25,
    "reload_process": 0.7,
}


@dataclass(frozen=True)
class Kind:
    """Memory that grows by ``rate`` bytes a step until a rung at least ``remedy`` is taken."""

    remedy: Rung
    rate: float = 1.0 * MB
    start: int = 1
    stop: int = 10**9
    active: bool = True


@dataclass
class Simulated:
    """A run that is simulated step by step.

    Attributes:
        base: bytes without growth.
        noise: sigma in bytes of a reading, evenly within 1.73 of it.
        headroom: bytes of a step beyond its reading.
        slowing: seconds a step longer for each byte above the base.
        cures: a remedy makes steps faster again.
        residue: bytes that the first reload in process leaves behind, until a new process begins.
        foreseen: the remedy that a census names before it is due.
        jitter: a remedy takes up to so much more or less of its usual time.
    """

    kinds: list[Kind]
    steps: int = 400
    base: float = 100.0 * MB
    budget: float = 150.0 * MB
    noise: float = 0.0
    headroom: float = 0.0
    step_seconds: float = 0.03
    slowing: float = 0.0
    cures: bool = True
    residue: float = 0.0
    foreseen: Rung | None = None
    jitter: float = 0.0
    seed: int = 0
    certain_after: int = 15
    max_overhead: float = 0.01
    rungs: tuple[Rung, ...] = RUNGS
    held: list[float] = field(init=False)
    taken: list[tuple[int, Rung]] = field(init=False)
    peak: float = field(init=False, default=0.0)
    remedy_seconds: float = field(init=False, default=0.0)
    seconds: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.held, self.taken = [0.0] * len(self.kinds), []
        self._grown = 0.0
        self._left = 0.0
        self.random, self.clock = random.Random(self.seed), random.Random(self.seed)

    def step(self, number: int) -> Observation:
        for n, kind in enumerate(self.kinds):
            self.held[n] += kind.rate if kind.start <= number < kind.stop else 0.0
        grown = sum(self.held)
        memory = self.base + self._left + grown + self.noise * 3**0.5 * self.random.uniform(-1, 1)
        self._grown += sum(kind.rate for kind in self.kinds)
        seconds = self.step_seconds + self.slowing * (grown if self.cures else self._grown)
        self.peak = max(self.peak, memory + self.headroom)
        self.seconds += seconds
        active = sum(h for h, k in zip(self.held, self.kinds, strict=True) if k.active)
        cache = grown - active
        return Observation(
            round(memory), round(active), round(cache), round(self.headroom), seconds
        )

    def remedy(self, step: int, rung: Rung) -> float:
        for n, kind in enumerate(self.kinds):
            if RUNGS.index(rung) >= RUNGS.index(kind.remedy):
                self.held[n] = 0.0
        if rung.startswith("reload"):
            self._left = self.residue * (rung == "reload_in_process")
        self.taken.append((step, rung))
        seconds = SECONDS[rung] * (1 + self.jitter * self.clock.uniform(-1, 1))
        self.remedy_seconds += seconds
        return seconds

    def trend(self, step: int, since: int) -> Trend | None:
        """What a test of growth says: certain some steps after growth or a remedy began."""
        rate = sum(k.rate for k in self.kinds if k.start <= step < k.stop)
        begun = [k.start for k in self.kinds if k.start <= step < k.stop]
        if not rate or step - max(since, min(begun)) < self.certain_after:
            return None
        return Trend(rate, since)

    def run(self) -> Simulated:
        ladder = Ladder(foreseen=self.foreseen)
        limits = Limits(self.budget, self.max_overhead, self.rungs)
        cycle, pending, since = None, None, 0
        for step in range(1, self.steps + 1):
            now = self.step(step)
            if pending is not None:
                seen = None if pending[0] == "reload_process" else cycle
                ladder, cycle = learn(ladder, seen, *pending, after=now)
                pending = None
            else:
                cycle = cycle.add(now) if cycle else Cycle.of(now)
            ladder = observe(ladder, cycle, now)
            if step == self.steps:
                break
            trend = self.trend(step, since)
            decision = decide(ladder, cycle, now, trend, limits)
            ladder = decision.ladder
            if decision.rung is not None:
                pending = decision.rung, now, self.remedy(step, decision.rung)
                since = step
        self.seconds += self.remedy_seconds
        return self

    def reloads(self) -> list[int]:
        return [step for step, rung in self.taken if rung.startswith("reload")]


def at_interval(run: Simulated, interval: int, rung: Rung) -> Simulated:
    """The same run with one rung every ``interval`` steps."""
    for step in range(1, run.steps + 1):
        run.step(step)
        if step % interval == 0 and step < run.steps:
            run.remedy(step, rung)
    run.seconds += run.remedy_seconds
    return run


def foreseen(run: Simulated) -> int:
    """The reloads of one who knows the remedy and the next reading: the fewest there can be."""
    rung = run.kinds[0].remedy
    for step in range(1, run.steps + 1):
        held, state, peak = list(run.held), run.random.getstate(), run.peak
        run.step(step)
        if run.peak > run.budget:  # then not so: with a remedy before this step
            run.held, run.peak = held, peak
            run.random.setstate(state)
            run.remedy(step - 1, rung)
            run.step(step)
    return len(run.reloads())
