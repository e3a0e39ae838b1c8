"""Which of the predicted settings to take: those that no other beats, and one for each budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lab.whatif.predict import Prediction
from lab.whatif.settings import Setting

MARGIN = 0.02  # of the peak: what a prediction may miss


@dataclass(frozen=True)
class Outcome:
    """A setting and what it would do."""

    setting: Setting
    predicted: Prediction

    @property
    def budget_gb(self) -> float:
        return self.setting.config.memory.budget_gb

    @property
    def fits(self) -> bool:
        """It stays within the budget, even where the prediction is somewhat low.

        But for ``adaptive``, which goes up to the budget and sees the memory that there is.
        """
        margin = 0.0 if self.setting.config.reload.policy == "adaptive" else MARGIN
        peak = self.predicted.peak_gb * (1 + margin)
        return peak <= self.budget_gb and self.predicted.ended is None

    @property
    def cost(self) -> tuple[float, int, float]:
        """What makes it worse than another that fits too."""
        predicted = self.predicted
        return (
            predicted.overhead_fraction,
            len(predicted.leaves),
            predicted.peak_gb,
        )


@dataclass(frozen=True)
class Advice:
    """The best setting for a budget, and why: one sentence."""

    budget_gb: float
    best: Outcome
    text: str


def front(outcomes: Sequence[Outcome], figure: str = "peak_gb") -> list[Outcome]:
    """Those that no other beats in both memory and overhead, by rising overhead."""
    found: list[Outcome] = []
    for outcome in sorted(outcomes, key=lambda o: (o.cost[0], getattr(o.predicted, figure))):
        memory = getattr(outcome.predicted, figure)
        if not found or memory < getattr(found[-1].predicted, figure):
            found.append(outcome)
    return found


def advise(outcomes: Sequence[Outcome]) -> Iterator[Advice]:
    """For each budget that was asked for, the setting that stays in it at the least cost."""
    for budget in dict.fromkeys(outcome.budget_gb for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.budget_gb == budget]
        fitting = [outcome for outcome in own if outcome.fits]
        if fitting:
            best = min(fitting, key=lambda outcome: outcome.cost)
            yield Advice(budget, best, _reasons(best, budget))
        else:
            best = min(own, key=lambda outcome: outcome.predicted.peak_gb)
            said = f"within {budget:g} GB none of these stays"
            yield Advice(budget, best, f"{said}: the lowest, {_described(best)}")


def _reasons(best: Outcome, budget: float) -> str:
    if not best.predicted.leaves:
        return f"within {budget:g} GB: reload=none, {_figures(best)}: no reload is needed"
    return f"within {budget:g} GB: {_described(best)}"


def _described(outcome: Outcome) -> str:
    return f"{' '.join(outcome.setting.given) or outcome.setting.label}, {_figures(outcome)}"


def _figures(outcome: Outcome) -> str:
    predicted = outcome.predicted
    reloads, remedies = (sum(p.values()) for p in (predicted.reloads, predicted.remedies))
    counted = f", {reloads} reload{'s' * (reloads != 1)}" if reloads else ""
    counted += f", {remedies} lesser remed{'ies' if remedies != 1 else 'y'}" if remedies else ""
    cost = f"{predicted.overhead_fraction:.1%} of the time in reloads and checkpoints"
    return f"peak {predicted.peak_gb:.3f} GB{counted}, {cost}"
