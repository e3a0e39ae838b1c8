"""What a worker's end means: who is replaced, and how a run ends."""

from __future__ import annotations

import pytest

from lab.protocol import Outcome
from lab.supervise.verdict import RestartPolicy, error_text, verdict
from lab.supervise.worker_process import WorkerExit

ENDS = [o for o in Outcome if o not in (Outcome.FAILED, Outcome.RELOAD, Outcome.STOPPED)]


def judge(policy: RestartPolicy, outcome: Outcome, start: int, last: int) -> WorkerExit:
    return policy.judge(WorkerExit(outcome), start_step=start, last_step=last, stop_requested=False)


@pytest.mark.parametrize("max_restarts", [0, 1, 3])
def test_a_death_at_one_step_is_replayed_as_often_as_allowed(max_restarts: int) -> None:
    policy, restarts = RestartPolicy(max_restarts), 0
    while policy.restarts_after(judge(policy, Outcome.FAILED, 2, 5)):
        restarts += 1
    assert restarts == max_restarts


def test_deaths_with_a_new_step_between_them_never_end_a_run() -> None:
    policy = RestartPolicy(1)
    assert all(
        policy.restarts_after(judge(policy, Outcome.FAILED, step, step)) for step in range(50)
    )


def test_a_reload_that_leads_nowhere_counts_as_a_death() -> None:
    policy = RestartPolicy(1)
    ends = [judge(policy, Outcome.RELOAD, 3, 6) for _ in range(3)]
    assert [end.outcome for end in ends] == [Outcome.RELOAD, Outcome.FAILED, Outcome.FAILED]
    assert "same step again" in ends[-1].cause
    assert not policy.restarts_after(ends[-1])


@pytest.mark.parametrize("requested", [True, False])
def test_only_a_requested_stop_is_no_death(requested: bool) -> None:
    policy = RestartPolicy(2)
    stopped = WorkerExit(Outcome.STOPPED)
    end = policy.judge(stopped, start_step=0, last_step=4, stop_requested=requested)
    assert (end == stopped) == requested
    assert policy.restarts_after(end) != requested


@pytest.mark.parametrize("outcome", ENDS)
def test_other_ends_are_final(outcome: Outcome) -> None:
    policy = RestartPolicy(9)
    assert not policy.restarts_after(judge(policy, outcome, 0, 1))


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("signalled", [None, 130])
@pytest.mark.parametrize("over_budget", [True, False])
@pytest.mark.parametrize("differs", [True, False])
def test_only_a_finished_run_whose_replays_agree_is_complete(
    outcome: Outcome, signalled: int | None, over_budget: bool, differs: bool
) -> None:
    code, state = verdict(
        outcome, signal_exit_code=signalled, over_budget=over_budget, replay_differs=differs
    )
    finished = outcome is Outcome.FINISHED
    assert (code == 0) == (state == "completed") == (finished and not differs)
    assert (code == signalled) == (state == "interrupted") == (not finished and bool(signalled))
    assert (code == 3) == (state == "budget_exceeded")
    assert code == 3 if over_budget and not finished and not signalled else code != 3


@pytest.mark.parametrize("outcome", Outcome)
def test_an_exhausted_budget_is_the_error_unless_the_run_has_finished(outcome: Outcome) -> None:
    text = error_text(outcome, {"text": "reported"}, over_budget_gb=8.0)
    assert ("memory.budget_gb=8 is exceeded after a" in text) == (outcome is not Outcome.FINISHED)


def test_no_reload_is_told_of_where_none_could_be_made() -> None:
    text = error_text(
        Outcome.STOPPED, {}, over_budget_gb=8.0, never_reloads="checkpoint.enabled=false"
    )
    assert text == "memory.budget_gb=8 is exceeded, and checkpoint.enabled=false never reloads"
