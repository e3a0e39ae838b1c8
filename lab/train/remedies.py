"""``reload=adaptive`` in a worker process: what :mod:`lab.train.adaptive` decides is carried out.

Rungs below a reload are taken here; a reload is left to the loop. What each gave back is known
after the first step that follows, and goes into the session's :class:`~lab.train.ladder.Ladder`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import mlx.core as mx

from lab.config.keys import Config
from lab.config.units import GB
from lab.machine import process
from lab.protocol import METHODS, RUNGS, Rung
from lab.records.growth import Trend
from lab.records.rows import metric_gb
from lab.records.slope import median
from lab.train import adaptive, memory
from lab.train.adaptive import Limits
from lab.train.channel import Channel
from lab.train.ladder import Cycle, Ladder, Observation
from lab.train.progress import PendingReload
from lab.train.session import Session


def clear_cache() -> None:
    """Free what MLX keeps for later arrays, down to the system: on Linux that takes a trim."""
    mx.clear_cache()
    process.trim_heap()


TAKE: dict[Rung, Callable[[], None]] = {
    "clear_cache": clear_cache,
    "collect": memory.release_unused,
}


@dataclass(frozen=True)
class Taken:
    """A remedy whose effect is not measured yet. A death loses it, and with it one estimate.

    Attributes:
        figures: memory after its step, by the logged keys, in GB.
        median_step_seconds: of recent steps; what the first step after it takes longer is its cost.
    """

    rung: Rung
    step: int
    before: Observation
    figures: dict[str, float | None]
    seconds: float
    median_step_seconds: float


class Remedies:
    """The remedies of one worker process, over its sessions.

    Arguments:
        channel: its ``remedies`` are taken up to its ``replays_until``, in place of deciding.
    """

    def __init__(self, config: Config, channel: Channel) -> None:
        self._metric, self._memory = config.reload.metric, config.memory
        self._channel = channel
        self._limits = Limits.of(config)
        self._cycle: Cycle | None = None
        self._taken: Taken | None = None
        self._reloaded: tuple[Rung, Observation, float] | None = None
        self._highest: int | None = None

    def reloaded(self, pending: PendingReload, seconds: float) -> None:
        """A reload is done; the step that follows it is seen next."""
        rung: Rung = "reload_process" if pending.method == "process" else "reload_in_process"
        before = self._observation(pending.before, 0.0)
        # A process that died meanwhile has dropped more than a reload within it would have.
        if before is not None and (self._cycle is not None or rung == "reload_process"):
            self._reloaded = rung, before, seconds

    def see_step(self, session: Session, reading: memory.Reading, seconds: float) -> None:
        """Take in a step's reading, and what the remedy before it did."""
        now = self._observation(reading.row(), seconds)
        if now is None:
            return
        ladder = session.progress.ladder or Ladder()
        taken, self._taken = self._taken, None
        done, self._reloaded = self._reloaded, None
        if taken is not None:
            cost = taken.seconds + max(seconds - taken.median_step_seconds, 0.0)
            self._report(taken, reading.row(), cost)
            done = taken.rung, taken.before, cost
        if done is not None:
            ladder, self._cycle = adaptive.learn(ladder, self._cycle, *done, after=now)
        else:
            self._cycle = self._cycle.add(now) if self._cycle else Cycle.of(now)
        session.progress.ladder = adaptive.observe(ladder, self._cycle, now)

    def foresee(self, session: Session, rung: Rung) -> None:
        """A census found that nothing cheaper than this rung gives the growth back."""
        session.progress.ladder = replace(session.progress.ladder or Ladder(), foreseen=rung)

    def after_step(
        self, session: Session, reading: memory.Reading, trend: Trend | None
    ) -> Rung | None:
        """Take the remedy that is due after this step.

        Returns:
            The reload that is due in its place, for the loop to carry out.
        """
        step, now = session.progress.step, self._observation(reading.row(), 0.0)
        if now is None or self._cycle is None:
            return None
        if step <= self._channel.replays_until:
            rung = self._channel.remedies.get(step)
        else:
            rung = self._decide(session, self._cycle, now, trend)
        if rung is None or rung in METHODS:
            return rung
        began = time.perf_counter()
        TAKE[rung]()
        taken = time.perf_counter() - began
        usual = median(session.step_seconds)
        self._taken = Taken(rung, step, now, reading.row(), taken, usual)
        session.growth = memory.growth_test(
            self._memory
        )  # what it falls by is no part of how it grows
        return None

    def _decide(
        self, session: Session, cycle: Cycle, now: Observation, trend: Trend | None
    ) -> Rung | None:
        ladder = session.progress.ladder or Ladder()
        found = adaptive.decide(ladder, cycle, now, trend, self._limits)
        session.progress.ladder = found.ladder
        if found.rung is not None or self._limits.rungs == RUNGS:
            return found.rung
        # What is due and cannot be done is told.
        all_rungs = replace(self._limits, rungs=RUNGS)
        rung = adaptive.decide(ladder, cycle, now, trend, all_rungs).rung
        return rung if rung in METHODS else None

    def _report(self, taken: Taken, after: Mapping[str, object], seconds: float) -> None:
        first, second = (metric_gb(row, self._metric) for row in (taken.figures, after))
        freed = None if first is None or second is None else first - second
        self._channel.event(
            "remedy",
            taken.step,
            remedy=taken.rung,
            freed_gb=freed,
            seconds=seconds,
            before=taken.figures,
            after=after,
        )

    def _observation(self, figures: Mapping[str, object], seconds: float) -> Observation | None:
        """A step's figures in bytes; None where the metric was not read."""
        memory_gb, active = metric_gb(figures, self._metric), metric_gb(figures, "active")
        mlx, peak = metric_gb(figures, "mlx"), figures.get("memory/peak_gb")
        if memory_gb is None or active is None or mlx is None or not isinstance(peak, float):
            return None
        held = round(memory_gb * GB)
        # While a step runs, MLX takes what is in its cache first.
        above = round(max(peak - (active if self._metric == "active" else mlx), 0.0) * GB)
        return Observation(
            memory=held,
            active=round(active * GB),
            cache=round((mlx - active) * GB),
            headroom=self._headroom(held, above),
            seconds=seconds,
        )

    def _headroom(self, held: int, above: int) -> int:
        """Bytes that a step took while it ran, beyond those it holds.

        Where the system keeps the highest figure of the process, a step that raises it tells to the
        byte; one that does not took no more than one before it.

        Arguments:
            above: as MLX's peak has it, for where the system does not.
        """
        peak = process.peak_process_bytes() if self._metric == "process" else None
        if peak is None:
            return above
        before, self._highest = self._highest, peak
        return max(peak - held, 0) if before is not None and peak > before else 0
