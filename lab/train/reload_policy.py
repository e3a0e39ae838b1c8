"""When to reload: pure functions of the step and its memory. The trainer carries a reload out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from lab.config.keys import Config, Reload
from lab.config.units import GB, MB
from lab.records.growth import Trend

Trigger = Literal["interval", "threshold", "leak"]
Reason = Literal[Trigger, "budget"]  # budget: asked for by the supervisor

TRIGGERS_BY_POLICY: dict[str, tuple[Trigger, ...]] = {
    "none": (),
    "interval": ("interval",),
    "threshold": ("threshold",),
    "interval_or_threshold": ("interval", "threshold"),
    "leak": (),
}


@dataclass(frozen=True)
class Triggers:
    """The triggers that act; 0 switches one off.

    Attributes:
        interval: reload when the step is a multiple of it.
        threshold: reload above it, in bytes of the chosen metric.
        leak: reload when the slope is above it, in bytes per step, and growth is certain.
    """

    interval: int = 0
    threshold: int = 0
    leak: float = 0.0


@dataclass(frozen=True)
class PolicyState:
    """Back-off of the threshold trigger; saved with the progress, so it survives a reload.

    Attributes:
        next_look: the first step at which the threshold trigger is looked at again.
        wait: steps that the next ineffective reload switches it off for.
    """

    next_look: int = 0
    wait: int = 2


def active_triggers(config: Reload) -> Triggers:
    """The triggers of a policy. The leak trigger is an emergency in every policy but ``none``."""
    acting = TRIGGERS_BY_POLICY[config.policy]
    return Triggers(
        interval=config.interval_steps if "interval" in acting else 0,
        threshold=int(config.memory_threshold_gb * GB) if "threshold" in acting else 0,
        leak=config.leak_threshold_mb * MB if config.policy != "none" else 0.0,
    )


def growth_counts(config: Config, trend: Trend | None) -> bool:
    """Whether a slope may count as a leak: growth is certain.

    A config of version 1 goes by the slope alone, as it did when it was saved.
    """
    return trend is not None or config.version == 1


def reload_reason(
    triggers: Triggers,
    state: PolicyState,
    *,
    step: int,
    last_step: int,
    memory: int | None,
    slope: float | None,
    grows: bool = True,
) -> Trigger | None:
    """Why to reload after this step, or None; any one trigger is enough.

    Arguments:
        step: the step just evaluated, from 1.
        last_step: the run's last step, after which there is nothing to reload for.
        memory: the chosen metric after this step, in bytes; None, not read, decides nothing.
        slope: its robust slope in bytes per step; None while it is not known.
        grows: growth is certain, which the leak trigger asks for beside the slope.
    """
    if step >= last_step:
        return None
    if triggers.interval and step % triggers.interval == 0:
        return "interval"
    looks = triggers.threshold and step >= state.next_look
    if looks and memory is not None and memory > triggers.threshold:
        return "threshold"
    if triggers.leak and grows and slope is not None and slope > triggers.leak:
        return "leak"
    return None


def update_back_off(
    triggers: Triggers, state: PolicyState, *, reloaded_at: int, memory: int | None
) -> tuple[PolicyState, bool]:
    """Exponential back-off of the threshold trigger, after the first step that follows a reload.

    A reload that leaves memory above the threshold is ineffective: the threshold is looked at again
    only 2, 4, 8, ... steps after it. A reload that helps resets the wait.

    Arguments:
        reloaded_at: the step after which the reload was decided.
        memory: the chosen metric after the first step since, in bytes; None: the state stays.

    Returns:
        The new state, and whether the reload was ineffective.
    """
    if memory is None:
        return state, False
    if not triggers.threshold or memory <= triggers.threshold:
        return PolicyState(), False
    return replace(state, next_look=reloaded_at + state.wait, wait=state.wait * 2), True
