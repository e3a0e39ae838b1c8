"""What is done about a worker above its budget."""

from __future__ import annotations

import pytest

from lab.supervise.budget import GRACE_S, Budget

# What a worker takes of a budget of 10 GB, and what is done. "." is a moment between two steps,
# "new" another worker, "wait" the time that a worker gets to leave.
STORIES = {
    "within": [("row", 9, None), (".", 10, None), ("row", 10, None)],
    "one breach": [("row", 9, None), ("row", 11, "reload"), (".", 12, None)],
    "a breach between two steps": [(".", 11, "reload"), ("row", 11, None)],
    "a breach that goes on": [
        ("row", 11, "reload"), ("row", 11, None), ("row", 11, None), ("row", 11, "stop"),
    ],
    "slow to leave": [("row", 11, "reload"), ("wait", 0, None), (".", 12, None)],
    "slow to leave, and growing": [
        ("row", 11, "reload"), (".", 13, None), ("wait", 0, None), (".", 13, "kill"),
        (".", 14, None),
    ],
    "nothing helps": [("row", 11, "reload"), ("new", 0, None), (".", 5, None), ("row", 11, "stop")],
    "a reload helps for a while": [
        ("row", 11, "reload"), ("new", 0, None), ("row", 8, None), ("row", 11, "reload"),
    ],
    "killed, and again above": [
        (".", 11, "reload"), ("wait", 0, None), (".", 13, "kill"), ("new", 0, None),
        (".", 11, "stop"), ("wait", 0, None), (".", 13, "kill"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("story", STORIES)
def test_reload_first_then_the_end(story: str) -> None:
    budget, now = Budget(10, can_reload=True), 0.0
    for what, memory, action in STORIES[story]:
        if what == "new":
            budget.next_worker()
        elif what == "wait":
            now += GRACE_S + 1
        else:
            assert budget.judge(memory, now=now, after_step=what == "row") == action
    assert budget.exhausted == any(action == "stop" for _, _, action in STORIES[story])


def test_without_checkpoints_there_is_only_the_end() -> None:
    budget = Budget(10, can_reload=False)
    assert budget.judge(11, now=0, after_step=True) == "stop"
    assert budget.exhausted
