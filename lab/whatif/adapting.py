"""``reload=adaptive`` on a predicted curve: the run's own policy, shown what the curve says.

The policy looks at more than a curve has: whether growth is certain is
:class:`lab.whatif.certain.Certainty`'s, what a step takes while it runs is MLX's recorded peaks'.
Steps are as fast as the recorded median: remedies against steps
that memory slows are not predicted.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lab.config.keys import Config
from lab.config.units import GB
from lab.protocol import Rung
from lab.records.growth import Trend
from lab.train import adaptive
from lab.train.adaptive import Limits
from lab.train.ladder import Cycle, Ladder, Observation
from lab.whatif.recorded import PARTS, Recording, Values, memory_of, parts_of


class Adapting:
    """The policy of one run, over its sessions.

    Arguments:
        recording: the run whose rows say what steps took.
    """

    def __init__(self, config: Config, recording: Recording, *, step_seconds: float) -> None:
        self._config, self._step_seconds = config, step_seconds
        self._limits = Limits.of(config)
        self._headroom = _headroom(recording, config.reload.metric)
        foreseen = recording.cures.foreseen if config.explain.enabled else None
        self._ladder, self._cycle = Ladder(foreseen=foreseen), None
        self._now: Observation | None = None
        self._taken: tuple[Rung, Observation, float] | None = None
        self._trend: Trend | None = None

    def see_step(self, step: int, parts: Mapping[str, float], trend: Trend | None) -> None:
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
        self._trend, self._now = trend, now

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


def _headroom(recording: Recording, metric: str) -> Values:
    """GB that each recorded step took while it ran, beyond what it left.

    As MLX's peak has it; rows have no peak of the rest of the process: what is gone a step later.
    """
    parts = {part: np.concatenate([s.parts[part] for s in recording.sessions]) for part in PARTS}
    left = memory_of(parts, "active" if metric == "active" else "mlx")
    at = np.concatenate([session.steps for session in recording.sessions]) - 1
    taken = np.nan_to_num(np.maximum(recording.work[at] - left, 0.0))
    if metric != "process":
        return taken
    falls = [-np.diff(s.parts["other"], append=s.parts["other"][-1:]) for s in recording.sessions]
    return np.maximum(taken, np.nan_to_num(np.concatenate(falls)))
