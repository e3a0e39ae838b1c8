"""What a worker's end means for its run: whether another worker follows, and how the run ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from lab.protocol import Outcome
from lab.supervise.worker_process import WorkerExit

State = Literal["completed", "interrupted", "budget_exceeded", "failed"]


@dataclass(frozen=True)
class Result:
    """What a run returns to whoever started it.

    Attributes:
        exit_code: 0 done, 1 failed, 2 bad configuration, 3 memory budget exceeded, 130 or 143
            interrupted and resumable.
    """

    exit_code: int


class RestartPolicy:
    """Decides whether another worker follows the one that has ended.

    A worker that left for a reload is followed by another. One that failed is replaced, unless more
    than ``max_restarts`` have failed now without a new step between them.
    """

    def __init__(self, max_restarts: int) -> None:
        self._max_restarts = max_restarts
        self._failures, self._failed_at = 0, -1
        self._last_span = (-1, -1)

    def judge(
        self, end: WorkerExit, *, start_step: int, last_step: int, stop_requested: bool
    ) -> WorkerExit:
        """The end as it counts, which is a failure where the exit code only looks good.

        Arguments:
            start_step: the step that the worker started from.
            last_step: the newest step that has a row.
            stop_requested: the worker was told to stop.
        """
        if end.outcome is Outcome.STOPPED and not stop_requested:
            end = replace(end, outcome=Outcome.FAILED, cause="it stopped without being asked")
        span = (start_step, last_step)
        if end.outcome is Outcome.RELOAD and span == self._last_span:
            cause = "it left for a reload that led to the same step again"
            end = replace(end, outcome=Outcome.FAILED, cause=cause)
        self._last_span = span
        if end.outcome is Outcome.FAILED:
            self._failures = 1 if last_step > self._failed_at else self._failures + 1
            self._failed_at = max(self._failed_at, last_step)
        return end

    def restarts_after(self, end: WorkerExit) -> bool:
        """Whether another worker is to go on after this end, as returned by :meth:`judge`."""
        if end.outcome is Outcome.FAILED:
            return self._failures <= self._max_restarts
        return end.outcome is Outcome.RELOAD


def error_text(
    outcome: Outcome,
    reported: Mapping[str, Any],
    *,
    over_budget_gb: float | None,
    never_reloads: str = "",
    cause: str = "",
) -> str:
    """What went wrong, in one line for the user; empty where nothing did.

    Arguments:
        reported: the worker's record of kind ``error`` or ``bad_config``, empty without one.
        over_budget_gb: the memory budget if it is exhausted, else None.
        never_reloads: the setting by which this run cannot reload; empty where it can.
        cause: of the worker's death, for one that could report nothing.
    """
    if outcome is Outcome.FINISHED:
        return ""
    if over_budget_gb is not None:
        tried = f", and {never_reloads} never reloads" if never_reloads else " after a reload too"
        return f"memory.budget_gb={over_budget_gb:g} is exceeded{tried}"
    if outcome is Outcome.UNSAVED:
        return "the last checkpoint could not be written: make room, then resume the run"
    return reported.get("text") or (cause and f"the worker died: {cause}")


def verdict(
    outcome: Outcome, *, signal_exit_code: int | None, over_budget: bool, replay_differs: bool
) -> tuple[int, State]:
    """Exit code and state of a run whose last worker ended with ``outcome``.

    Arguments:
        signal_exit_code: 130 or 143 after a request to stop, else None.
        over_budget: the memory budget is exhausted.
        replay_differs: a replayed step gave another loss.
    """
    finished = outcome is Outcome.FINISHED
    if signal_exit_code is not None and not finished:
        return signal_exit_code, "interrupted"
    if over_budget and not finished:
        return 3, "budget_exceeded"
    if finished and not replay_differs:
        return 0, "completed"
    return 1, "failed"
