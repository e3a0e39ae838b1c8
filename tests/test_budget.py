"""What is done about a worker above its budget."""

from __future__ import annotations

import pytest

from lab.budget import Budget

# What a worker takes of a budget of 10 GB, and what is done. "." is a moment between two steps, "new"
# another worker.
STORIES = {
    "within": [("row", 9, None), (".", 10, None), ("row", 10, None)],
    "one breach": [("row", 9, None), ("row", 11, "reload"), (".", 12, None)],
    "a breach between two steps": [(".", 11, "reload"), ("row", 11, None)],
    "a breach that goes on": [
        ("row", 11, "reload"), ("row", 11, None), ("row", 11, None), ("row", 11, "stop"),
    ],
    "a breach that explodes": [("row", 11, "reload"), (".", 13, "kill"), (".", 14, None)],
    "nothing helps": [("row", 11, "reload"), ("new", 0, None), (".", 5, None), ("row", 11, "stop")],
    "a reload helps for a while": [
        ("row", 11, "reload"), ("new", 0, None), ("row", 8, None), ("row", 11, "reload"),
    ],
    "killed, and again above": [
        (".", 11, "reload"), (".", 13, "kill"), ("new", 0, None), (".", 11, "stop"),
        (".", 13, "kill"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("story", STORIES)
def test_reload_first_then_the_end(story: str) -> None:
    budget = Budget(10, can_reload=True)
    for what, memory, action in STORIES[story]:
        if what == "new":
            budget.next_worker()
        else:
            assert budget.judge(memory, after_step=what == "row") == action
    assert budget.exhausted == any(action == "stop" for _, _, action in STORIES[story])


def test_without_checkpoints_there_is_only_the_end() -> None:
    budget = Budget(10, can_reload=False)
    assert budget.judge(11, after_step=True) == "stop"
    assert budget.exhausted
