"""What a run's time goes into: steps, checkpoints, reloads and lesser remedies, in seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from lab.protocol import METHODS, Rung
from lab.records.rows import plausible
from lab.train.adaptive import KEEPING_STATE
from lab.train.ladder import PRIOR_SECONDS
from lab.whatif.recorded import Recording, Values


@dataclass(frozen=True)
class Cost:
    """Seconds that something takes once; estimated where no recorded run did it."""

    seconds: float
    estimated: bool = False


@dataclass(frozen=True)
class Costs:
    """What a run's time goes into, in seconds.

    Attributes:
        steps: of each step, shape (steps,).
        rest: of each step, for what is neither step, reload nor checkpoint: validation, rows.
        reload: by method.
        remedy: of rungs below a reload.
    """

    steps: Values
    rest: float
    checkpoint: Cost
    reload: Mapping[str, Cost]
    remedy: Mapping[Rung, Cost]

    def of_rung(self, rung: Rung) -> Cost:
        return self.reload[METHODS[rung]] if rung in METHODS else self.remedy[rung]

    def learned(self, rung: Rung) -> float:
        """What ``reload=adaptive`` would see; an estimate is one for both kinds of reload."""
        cost = self.of_rung(rung)
        return PRIOR_SECONDS[rung] if cost.estimated else cost.seconds

    @classmethod
    def of(cls, recordings: Sequence[Recording], steps: int) -> Costs:
        """From recorded runs, for at least so many steps."""
        longest = max(recordings, key=lambda run: run.steps)
        known = longest.step_seconds[np.isfinite(longest.step_seconds)]
        usual = float(np.median(known)) if len(known) else 0.0
        taken = np.full(max(steps, longest.steps), usual)
        taken[: longest.steps] = np.where(
            np.isfinite(longest.step_seconds), longest.step_seconds, usual
        )
        times = longest.figures.get("seconds") or {}
        saves = [seconds for run in recordings for seconds in run.checkpoints]
        checkpoint = Cost(median(saves)) if saves else Cost(0.0, estimated=True)
        startup = plausible(times.get("startup")) or 0.0
        parts = ("train", "reload", "remedy", "checkpoint", "startup")
        rest = times.get("total", 0.0) - sum(times.get(part, 0.0) for part in parts)
        reload = {}
        for method in ("in_process", "process"):
            seen = [seconds for run in recordings for seconds in run.reloads.get(method, ())]
            # At most: an in-process reload starts no interpreter.
            guess = Cost(checkpoint.seconds + startup, estimated=True)
            reload[method] = Cost(median(seen)) if seen else guess
        remedy: dict[Rung, Cost] = {}
        for rung in KEEPING_STATE:
            seen = [seconds for run in recordings for seconds in run.cures.seconds.get(rung, ())]
            remedy[rung] = Cost(median(seen)) if seen else Cost(PRIOR_SECONDS[rung], estimated=True)
        rest = plausible(rest) or 0.0  # else a damaged row's
        return cls(taken, rest / longest.steps, checkpoint, reload, remedy)
