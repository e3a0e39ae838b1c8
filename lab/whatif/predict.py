"""What a policy would do on a predicted curve: the run's own decisions, step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lab.config.keys import Config
from lab.config.units import GB
from lab.protocol import METHODS, Rung
from lab.records.growth import Trend
from lab.records.slope import SlopeWindow
from lab.supervise.budget import Budget
from lab.train.reload_policy import (
    PolicyState,
    Reason,
    active_triggers,
    growth_counts,
    reload_reason,
    update_back_off,
)
from lab.whatif.adapting import Adapting
from lab.whatif.censuses import Censuses
from lab.whatif.certain import Certainty
from lab.whatif.costs import Costs
from lab.whatif.fitting import fitted
from lab.whatif.growth import Origin
from lab.whatif.recorded import PARTS, Recording, Values, memory_of

BY_METHOD: Mapping[str, Rung] = {method: rung for rung, method in METHODS.items()}
FIRST_LOOK, LATER_LOOKS = 64, 4  # steps of a session that are predicted at once; then times 4, ...


@dataclass(frozen=True)
class Leave:
    """A remedy, reload or census that follows a step: why, and what it does."""

    step: int
    reason: Reason | Literal["census"]
    rung: Rung


@dataclass(frozen=True)
class Prediction:
    """A run that was not trained. Memory is what the budget holds, in GB; time in seconds.

    Attributes:
        leaves: every reload and lesser remedy.
        seconds: without startup.
        over_budget: seconds of the steps after which memory is above ``memory.budget_gb``.
        ended: the step after which the budget ends the run, for reloads cannot keep it.
        curve: memory after each step.
    """

    peak_gb: float
    mean_gb: float
    leaves: Sequence[Leave]
    seconds: float
    overhead_fraction: float
    over_budget: float
    ended: int | None
    curve: Values

    @property
    def reloads(self) -> Mapping[str, int]:
        """How many, by reason."""
        return Counter(leave.reason for leave in self.leaves if leave.rung in METHODS)

    @property
    def remedies(self) -> Mapping[str, int]:
        """How many of each rung below a reload."""
        return Counter(leave.rung for leave in self.leaves if leave.rung not in METHODS)


class Predictor:
    """Predicts runs from recorded ones."""

    def __init__(self, recordings: Sequence[Recording], steps: int) -> None:
        self.model = fitted(recordings, steps)
        self.costs = Costs.of(recordings, steps)
        self._reference = max(recordings, key=lambda run: run.first_steps)
        self._held = recordings[0].held

    def predict(self, config: Config) -> Prediction:
        """Predict a run of this config, of which reloads, budget and length alone may be new."""
        steps, run = config.train.steps, self._begin(config)
        curves: list[Values] = []
        leaves: list[Leave] = []
        origins: Mapping[str, Origin] = {part: Origin() for part in PARTS}
        start = 0
        while start < steps and not run.is_over:
            parts, leave = self._stretch(run, start, origins)
            curves.append(memory_of(parts, self._held))
            start += len(curves[-1])
            if leave is None:
                break
            if leave.reason != "census":
                leaves.append(leave)
            run.leave(leave, self.costs.learned(leave.rung))
            before = {part: float(parts[part][-1]) for part in PARTS}
            origins = self.model.origins_after(leave.rung, start, before, origins)
        return self._summed(config, np.concatenate(curves), leaves)

    def unreloaded(self, config: Config) -> Values:
        """GB of its ``reload.metric`` after each step, were it never reloaded."""
        parts = self.model.memory(0, {part: Origin() for part in PARTS}, config.train.steps)
        return memory_of(parts, config.reload.metric)

    def _begin(self, config: Config) -> _Run:
        adapting = None
        if config.reload.policy == "adaptive":
            usual = float(np.median(self.costs.steps))
            adapting = Adapting(config, self._reference, step_seconds=usual)
        censuses = Censuses.of(config, self._reference, self.model.cure)
        certainty = Certainty(config, self._reference)
        return _Run(config, self._held, certainty, adapting, censuses)

    def _stretch(
        self, run: _Run, start: int, origins: Mapping[str, Origin]
    ) -> tuple[dict[str, Values], Leave | None]:
        """Memory up to the next reload or remedy, and that; None at the run's end."""
        steps = run.config.train.steps - start
        done, count = 0, min(FIRST_LOOK, steps)
        while True:
            parts = self.model.memory(start, origins, count)
            at, leave = run.first_leave(start, done, parts)
            if at is not None or count == steps:
                at = steps - 1 if at is None else at
                return {part: values[: at + 1] for part, values in parts.items()}, leave
            done, count = count, min(LATER_LOOKS * count, steps)

    def _summed(self, config: Config, curve: Values, leaves: Sequence[Leave]) -> Prediction:
        costs, done = self.costs, len(curve)
        every = config.checkpoint.interval_steps
        saves = set(range(every, done, every) if every else ()) | {done}
        saves -= {leave.step for leave in leaves if leave.rung in METHODS}
        overhead = sum(costs.of_rung(leave.rung).seconds for leave in leaves)
        overhead += len(saves) * costs.checkpoint.seconds
        training = float(costs.steps[:done].sum()) + costs.rest * done
        over = curve > config.memory.budget_gb
        return Prediction(
            peak_gb=float(curve.max()),
            mean_gb=float(curve.mean()),
            leaves=leaves,
            seconds=training + overhead,
            overhead_fraction=overhead / (training + overhead) if training + overhead else 0.0,
            over_budget=float((costs.steps[:done] + costs.rest)[over].sum()),
            ended=done if done < config.train.steps else None,
            curve=curve,
        )


class _Run:
    """What a run remembers from one session to the next, and its decisions.

    Arguments:
        held: the figure that the budget holds.
        certainty: of growth.
        adapting: its ``reload=adaptive``, if it has that.
        censuses: where they give memory back.
    """

    def __init__(
        self,
        config: Config,
        held: str,
        certainty: Certainty,
        adapting: Adapting | None,
        censuses: Censuses | None,
    ) -> None:
        self.config, self._held, self._certainty = config, held, certainty
        self._adapting, self._censuses = adapting, censuses
        self.is_over = False
        self._triggers, self._state = active_triggers(config.reload), PolicyState()
        self._window = self._slope_window()
        self._budget = Budget(config.memory.budget_gb, can_reload=config.checkpoint.enabled)
        self._asked = False  # by the supervisor, which sees a row while the next step is running
        self._reloaded_at: int | None = None

    def leave(self, leave: Leave, seconds: float) -> None:
        """A reload, a remedy or a census is done."""
        rung = leave.rung
        if leave.reason == "census":
            assert self._censuses is not None
            self._censuses.taken(leave.step)
            return
        self._certainty.begin_anew()
        if self._adapting:
            self._adapting.take(rung, seconds)
        if self._censuses:
            self._censuses.session_begins(leave.step, rung)
        if rung in METHODS:
            self._window, self._reloaded_at = self._slope_window(), leave.step
        if rung == "reload_process":
            self._asked = False
            self._budget.next_worker()

    def first_leave(
        self, start: int, done: int, parts: Mapping[str, Values]
    ) -> tuple[int | None, Leave | None]:
        """The place from ``done`` on at which the session is left, None for nowhere, and for what.

        Arguments:
            start: the step before its first one.
            parts: GB after each of its steps.
        """
        metric, held = (memory_of(parts, f) for f in (self.config.reload.metric, self._held))
        memory = (metric * GB).astype(np.int64).tolist()
        for at in self._places(start, done, metric, held):
            step = start + 1 + at
            trend = None
            if self._window or self._adapting:
                now = {part: float(values[at]) for part, values in parts.items()}
                trend = self._certainty.add(step, now)
                if self._adapting:
                    self._adapting.see_step(step, now, trend)
            if at == 0 and start == self._reloaded_at:
                self._state, _ = update_back_off(
                    self._triggers, self._state, reloaded_at=start, memory=memory[0]
                )
            leave = self._due(step, memory[at], trend) if step < self.config.train.steps else None
            action = self._budget.judge(float(held[at]), now=0.0, after_step=True)
            self._asked = self._asked or action == "reload"
            self.is_over = self.is_over or action == "stop"
            if leave is not None or self.is_over:
                return at, leave
        return None, None

    def _due(self, step: int, memory: int, trend: Trend | None) -> Leave | None:
        """What is due after a step that is not the last."""
        slope = self._window.add(memory) if self._window else None
        if self._asked:
            return Leave(step, "budget", "reload_process")
        reason = reload_reason(
            self._triggers,
            self._state,
            step=step,
            last_step=self.config.train.steps,
            memory=memory,
            slope=slope,
            grows=growth_counts(self.config, trend),
        )
        if reason is not None and self.config.checkpoint.enabled:
            return Leave(step, reason, BY_METHOD[self.config.reload.method])
        rung = self._adapting.decide() if self._adapting else None
        if rung is not None:
            return Leave(step, "adaptive", rung)
        is_census = self._censuses is not None and step == self._censuses.next_step
        return Leave(step, "census", "collect") if is_census else None

    def _slope_window(self) -> SlopeWindow | None:
        return SlopeWindow(self.config.reload.window_steps) if self._triggers.leak else None

    def _places(self, start: int, done: int, metric: Values, held: Values) -> list[int]:
        """Places at which anything can happen; at others nothing is above anything."""
        places = np.arange(done, len(metric))
        if self._window or self._adapting:
            return places.tolist()
        over = held[done:] > self.config.memory.budget_gb
        can = (places == 0) | over | np.append(False, over[:-1])
        if self._triggers.interval:
            can |= (start + 1 + places) % self._triggers.interval == 0
        if self._triggers.threshold:
            can |= metric[done:] * GB > self._triggers.threshold
        if self._censuses:
            can |= start + 1 + places == self._censuses.next_step
        return places[can | self._asked].tolist()
