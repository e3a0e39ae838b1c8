"""What is done about a worker that takes more memory than its run may have.

Decided in the supervisor, from outside: first a reload by process, then the end. A budget that is
exceeded again before one step has ended within it cannot be kept by reloads.
"""

from __future__ import annotations

from typing import Literal

Action = Literal["reload", "stop", "kill"]

HARD_LIMIT = 1.25  # of the budget; a worker above it is not waited for longer than
GRACE_S = 10.0  # to end its step and save
PATIENCE_STEPS = 2  # that may end above the budget while a reload was asked for


class Budget:
    """Watches the workers of one run, one after the other.

    Arguments:
        limit_gb: what a worker may take.
        can_reload: there are checkpoints to go on from.

    Attributes:
        exhausted: reloads did not help; the run is over.
    """

    def __init__(self, limit_gb: float, *, can_reload: bool) -> None:
        self._limit_gb, self._can_reload = limit_gb, can_reload
        self.exhausted = False
        self._asked: Action | None = None
        self._asked_at = 0.0
        self._steps_since = 0
        self._is_last_chance = False

    def next_worker(self) -> None:
        """Another worker has taken over."""
        self._is_last_chance = self._asked is not None
        self._asked, self._steps_since = None, 0

    def judge(self, memory_gb: float, *, now: float, after_step: bool) -> Action | None:
        """What to do now, at most once each.

        Arguments:
            memory_gb: what the worker takes at this moment.
            now: seconds of a clock.
            after_step: a step has just ended; else it may be in the middle of anything.
        """
        if memory_gb <= self._limit_gb:
            self._is_last_chance = self._is_last_chance and not after_step
            return None
        if self._asked == "kill":
            return None
        if self._asked is None:
            hopeless = self._is_last_chance or not self._can_reload
            return self._ask("stop" if hopeless else "reload", now)
        is_far_above = memory_gb > HARD_LIMIT * self._limit_gb
        if is_far_above and now - self._asked_at > GRACE_S:
            return self._ask("kill", now)
        self._steps_since += after_step
        if self._asked == "reload" and self._steps_since > PATIENCE_STEPS:
            return self._ask("stop", now)  # its checkpoint fails, or it would have left
        return None

    def _ask(self, action: Action, now: float) -> Action:
        self.exhausted = self.exhausted or action == "stop"
        self._asked, self._asked_at = action, now
        return action
