"""``reload=adaptive`` on a predicted curve: the run's own policy, shown what the curve says.

The policy looks at more than a curve has: whether growth is certain is taken from the recorded rows
up to the first remedy, then from the same test without the heap's figure; what a step takes while
it runs from MLX's recorded peaks. Steps are as fast as the recorded median: remedies against steps
that memory slows are not predicted.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lab.config.keys import Config
from lab.config.units import GB, MB
from lab.protocol import Rung
from lab.records.growth import GrowthTest, Trend
from lab.train import adaptive
from lab.train.adaptive import Limits
from lab.train.ladder import Cycle, Ladder, Observation
from lab.whatif.recorded import PARTS, Recording, Values, memory_of, parts_of


class Adapting:
    """The policy of one run, over its sessions.

    Arguments:
        recording: the run whose rows say when growth was certain and what steps took.
    """

    def __init__(self, config: Config, recording: Recording, *, step_seconds: float) -> None:
        self._config, self._recording, self._step_seconds = config, recording, step_seconds
        self._limits = Limits.of(config)
        self._headroom = _headroom(recording, config.reload.metric)
        self._ladder, self._cycle = Ladder(), None
        self._now: Observation | None = None
        self._taken: tuple[Rung, Observation, float] | None = None
        self._growth = self._growth_test()
        self._trend: Trend | None = None
        self._is_as_recorded = True

    def see_step(self, step: int, parts: Mapping[str, float]) -> None:
        """Take in the memory after a step, GB by part, and what the remedy before it did."""
        now = self._observation(step, parts)
        if self._taken is not None:
            self._ladder, self._cycle = adaptive.learn(
                self._ladder, self._cycle, *self._taken, after=now
            )
            self._taken = None
        else:
            self._cycle = self._cycle.add(now) if self._cycle else Cycle.of(now)
        self._ladder = adaptive.observe(self._ladder, self._cycle, now)
        self._trend = self._trend_at(step, parts)
        self._now = now

    def decide(self) -> Rung | None:
        """The remedy that is due after the step that was seen last."""
        assert self._cycle is not None
        assert self._now is not None
        found = adaptive.decide(self._ladder, self._cycle, self._now, self._trend, self._limits)
        self._ladder = found.ladder
        return found.rung

    def take(self, rung: Rung, seconds: float) -> None:
        """A remedy is taken after the step that was seen last, whoever asked for it."""
        assert self._now is not None
        self._taken = rung, self._now, seconds
        self._growth, self._is_as_recorded = self._growth_test(), False
        if rung == "reload_process":
            self._cycle = None

    def _observation(self, step: int, parts: Mapping[str, float]) -> Observation:
        held = {part: round(gb * GB) for part, gb in parts.items()}
        return Observation(
            memory=sum(held[part] for part in parts_of(self._config.reload.metric)),
            active=held["active"],
            cache=held["cache"],
            headroom=round(self._headroom[(step - 1) % len(self._headroom)] * GB),
            seconds=self._step_seconds,
        )

    def _trend_at(self, step: int, parts: Mapping[str, float]) -> Trend | None:
        held = {part: round(gb * GB) for part, gb in parts.items()}
        found = self._growth.add(
            step, active=held["active"], cache=held["cache"], process=sum(held.values())
        )
        recorded = self._recording.trend
        if not self._is_as_recorded or step > len(recorded):
            return found
        rate = float(recorded[step - 1])
        return None if np.isnan(rate) else Trend(rate * MB, self._growth.noise, since=1)

    def _growth_test(self) -> GrowthTest:
        memory = self._config.memory
        return GrowthTest(
            cache_clear_interval=memory.cache_clear_interval,
            cache_limit=memory.cache_limit_gb * GB,
            arrays_in_process=self._recording.held == "process",
        )


def _headroom(recording: Recording, metric: str) -> Values:
    """GB that each recorded step took while it ran, beyond what it left, as MLX's peak has it."""
    parts = {part: np.concatenate([s.parts[part] for s in recording.sessions]) for part in PARTS}
    left = memory_of(parts, "active" if metric == "active" else "mlx")
    at = np.concatenate([session.steps for session in recording.sessions]) - 1
    return np.nan_to_num(np.maximum(recording.work[at] - left, 0.0))
