"""What a policy would do on a predicted curve: the run's own decisions, step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from lab.config.keys import Config
from lab.config.units import GB
from lab.records.slope import SlopeWindow
from lab.supervise.budget import Budget
from lab.train.reload_policy import (
    PolicyState,
    Reason,
    active_triggers,
    reload_reason,
    update_back_off,
)
from lab.whatif.growth import MemoryModel
from lab.whatif.recorded import PARTS, Kind, Recording, Values, memory_of

FIRST: Kind = "first"
FIRST_LOOK, LATER_LOOKS = 64, 4  # steps of a session that are predicted at once; then times 4, ...


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
    """

    steps: Values
    rest: float
    checkpoint: Cost
    reload: Mapping[str, Cost]

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
        startup = float(times.get("startup", 0.0))
        parts = ("train", "reload", "checkpoint", "startup")
        rest = times.get("total", 0.0) - sum(times.get(part, 0.0) for part in parts)
        reload = {}
        for method in ("in_process", "process"):
            seen = [seconds for run in recordings for seconds in run.reloads.get(method, ())]
            # At most: an in-process reload starts no interpreter.
            guess = Cost(checkpoint.seconds + startup, estimated=True)
            reload[method] = Cost(median(seen)) if seen else guess
        return cls(taken, max(rest / longest.steps, 0.0), checkpoint, reload)


@dataclass(frozen=True)
class Prediction:
    """A run that was not trained. Memory is what the budget holds, in GB; time in seconds.

    Attributes:
        reloads: by reason.
        seconds: without startup.
        over_budget: seconds of the steps after which memory is above ``memory.budget_gb``.
        ended: the step after which the budget ends the run, for reloads cannot keep it.
        curve: memory after each step.
    """

    peak_gb: float
    mean_gb: float
    reloads: Mapping[str, int]
    seconds: float
    overhead_fraction: float
    over_budget: float
    ended: int | None
    curve: Values


class Predictor:
    """Predicts runs from recorded ones."""

    def __init__(self, recordings: Sequence[Recording], steps: int) -> None:
        self.model = MemoryModel.fitted(recordings, steps)
        self.costs = Costs.of(recordings, steps)
        self._held = recordings[0].held

    def predict(self, config: Config) -> Prediction:
        """Predict a run of this config, of which reloads, budget and length alone may be new."""
        steps, run = config.train.steps, _Run(config)
        curves: list[Values] = []
        leaves: list[tuple[int, Reason]] = []
        start, kind, before = 0, FIRST, {}
        while start < steps and not run.is_over:
            parts, reason = self._session(run, start, kind, before)
            curves.append(memory_of(parts, self._held))
            start += len(curves[-1])
            if reason is None:
                break
            leaves.append((start, reason))
            kind = run.leave(reason)
            before = {part: float(parts[part][-1]) for part in PARTS}
        return self._summed(config, np.concatenate(curves), leaves)

    def _session(
        self, run: _Run, start: int, kind: Kind, before: Mapping[str, float]
    ) -> tuple[dict[str, Values], Reason | None]:
        """One session up to where it is left, and why; None at the run's end."""
        steps = run.config.train.steps - start
        done, count = 0, min(FIRST_LOOK, steps)
        window = SlopeWindow(run.config.reload.window_steps) if run.triggers.leak else None
        while True:
            parts = self.model.session(start, kind, before, count)
            metric = memory_of(parts, run.config.reload.metric)
            found = run.first_leave(start, done, metric, memory_of(parts, self._held), window)
            if found is not None or count == steps:
                at, reason = found or (steps - 1, None)
                return {part: values[: at + 1] for part, values in parts.items()}, reason
            done, count = count, min(LATER_LOOKS * count, steps)

    def _summed(
        self, config: Config, curve: Values, leaves: Sequence[tuple[int, Reason]]
    ) -> Prediction:
        costs, done = self.costs, len(curve)
        every = config.checkpoint.interval_steps
        saves = set(range(every, done, every) if every else ()) | {done}
        saves -= {step for step, _ in leaves}
        methods = ["process" if r == "budget" else config.reload.method for _, r in leaves]
        overhead = sum(costs.reload[method].seconds for method in methods)
        overhead += len(saves) * costs.checkpoint.seconds
        training = float(costs.steps[:done].sum()) + costs.rest * done
        over = curve > config.memory.budget_gb
        return Prediction(
            peak_gb=float(curve.max()),
            mean_gb=float(curve.mean()),
            reloads=Counter(reason for _, reason in leaves),
            seconds=training + overhead,
            overhead_fraction=overhead / (training + overhead) if training + overhead else 0.0,
            over_budget=float((costs.steps[:done] + costs.rest)[over].sum()),
            ended=done if done < config.train.steps else None,
            curve=curve,
        )


class _Run:
    """What a run remembers from one session to the next, and its decisions."""

    def __init__(self, config: Config) -> None:
        self.config, self.triggers = config, active_triggers(config.reload)
        self.is_over = False
        self._state = PolicyState()
        self._budget = Budget(config.memory.budget_gb, can_reload=True)
        self._asked = False  # by the supervisor, which sees a row while the next step is running

    def leave(self, reason: Reason) -> Kind:
        """Begin another session; what it begins with."""
        if reason != "budget" and self.config.reload.method == "in_process":
            return "in_process"
        self._asked = False
        self._budget.next_worker()
        return "process"

    def first_leave(
        self, start: int, done: int, metric: Values, held: Values, window: SlopeWindow | None
    ) -> tuple[int, Reason | None] | None:
        """Where, from place ``done`` of a session on, it is left first, and why.

        Arguments:
            start: the step before its first one.
            metric, held: GB after each of its steps, of what the policy and the budget look at.
        """
        memory = (metric * GB).astype(np.int64).tolist()
        for at in self._places(start, done, metric, held, every=window is not None):
            step, slope = start + 1 + at, window.add(memory[at]) if window else None
            if at == 0 and start > 0:
                self._state, _ = update_back_off(
                    self.triggers, self._state, reloaded_at=start, memory=memory[0]
                )
            last_step = self.config.train.steps
            reason: Reason | None = reload_reason(
                self.triggers,
                self._state,
                step=step,
                last_step=last_step,
                memory=memory[at],
                slope=slope,
            )
            if self._asked and step < last_step:
                reason = "budget"
            action = self._budget.judge(float(held[at]), now=0.0, after_step=True)
            self._asked = self._asked or action == "reload"
            self.is_over = self.is_over or action == "stop"
            if reason is not None or self.is_over:
                return at, reason
        return None

    def _places(
        self, start: int, done: int, metric: Values, held: Values, *, every: bool
    ) -> list[int]:
        """Places at which anything can happen; at others nothing is above anything."""
        places = np.arange(done, len(metric))
        if every:
            return places.tolist()
        over = held[done:] > self.config.memory.budget_gb
        can = (places == 0) | over | np.append(False, over[:-1])
        if self.triggers.interval:
            can |= (start + 1 + places) % self.triggers.interval == 0
        if self.triggers.threshold:
            can |= metric[done:] * GB > self.triggers.threshold
        return places[can | self._asked].tolist()
