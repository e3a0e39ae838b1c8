"""What to do about a worker that takes more memory than its run may have.

Decided in the supervisor, from outside: first a reload by process, then the end of the run. A
budget that is exceeded again before one step has ended within it cannot be kept by reloads.
"""

from __future__ import annotations

from typing import Literal

Action = Literal["reload", "stop", "kill"]

HARD_LIMIT = 1.25  # of the budget; a worker above it is killed
GRACE_S = 10.0  # after a request, if it has not ended its step and saved by then
PATIENCE_STEPS = 2  # that may end above the budget after a reload was requested


class Budget:
    """Decides about the workers of one run, one after the other.

    Arguments:
        limit_gb: the most memory that a worker may take, in GB.
        can_reload: there are checkpoints to go on from.

    Attributes:
        exhausted: reloads did not help; the run is over.
    """

    def __init__(self, limit_gb: float, *, can_reload: bool) -> None:
        self._limit_gb, self._can_reload = limit_gb, can_reload
        self.exhausted = False
        self._requested: Action | None = None
        self._requested_at = 0.0
        self._steps_since = 0
        self._is_last_chance = False

    def next_worker(self) -> None:
        """Another worker has taken over."""
        self._is_last_chance = self._requested is not None
        self._requested, self._steps_since = None, 0

    def judge(self, memory_gb: float, *, now: float, after_step: bool) -> Action | None:
        """What to do now; each action is returned at most once for a worker.

        Arguments:
            memory_gb: the worker's memory at this moment, in GB.
            now: seconds of a monotonic clock.
            after_step: a step has just ended; else the worker may be in the middle of one.
        """
        if memory_gb <= self._limit_gb:
            self._is_last_chance = self._is_last_chance and not after_step
            return None
        if self._requested == "kill":
            return None
        if self._requested is None:
            hopeless = self._is_last_chance or not self._can_reload
            return self._request("stop" if hopeless else "reload", now)
        is_far_above = memory_gb > HARD_LIMIT * self._limit_gb
        if is_far_above and now - self._requested_at > GRACE_S:
            return self._request("kill", now)
        self._steps_since += after_step
        if self._requested == "reload" and self._steps_since > PATIENCE_STEPS:
            return self._request("stop", now)  # it cannot save, or it would have left
        return None

    def _request(self, action: Action, now: float) -> Action:
        self.exhausted = self.exhausted or action == "stop"
        self._requested, self._requested_at = action, now
        return action
