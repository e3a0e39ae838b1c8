"""Each reload policy as a pure function: a table of what happens, and what must be decided."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.config.keys import Reload
from lab.config.units import GB, MB
from lab.records.growth import Trend
from lab.train.reload_policy import (
    PolicyState,
    Triggers,
    active_triggers,
    growth_counts,
    reload_reason,
    update_back_off,
)
from tests.runs import config_of

BASE = {
    "interval_steps": 100,
    "memory_threshold_gb": 8.0,
    "leak_threshold_mb": 0.0,
    "window_steps": 50,
    "metric": "process",
    "method": "in_process",
}


def reasons(policy: Triggers, memory: list[int], slopes: list[float | None] | None = None) -> dict:
    """The reloads of a run in which every one helps: step -> reason."""
    last, found = len(memory), {}
    for step, held in enumerate(memory, start=1):
        slope = slopes[step - 1] if slopes else None
        reason = reload_reason(
            policy, PolicyState(), step=step, last_step=last, memory=held, slope=slope
        )
        if reason:
            found[step] = reason
    return found


@pytest.mark.parametrize(
    ("policy", "extra", "expected"),
    [
        ("none", {"leak_threshold_mb": 1.0}, Triggers()),
        ("interval", {}, Triggers(interval=100)),
        ("threshold", {}, Triggers(threshold=8 * GB)),
        ("interval_or_threshold", {}, Triggers(interval=100, threshold=8 * GB)),
        ("interval_or_threshold", {"interval_steps": 0}, Triggers(threshold=8 * GB)),
        ("interval_or_threshold", {"memory_threshold_gb": 0.0}, Triggers(interval=100)),
        ("interval", {"leak_threshold_mb": 2.0}, Triggers(interval=100, leak=2 * MB)),
        ("leak", {"leak_threshold_mb": 1.0}, Triggers(leak=1 * MB)),
        ("leak", {"leak_threshold_mb": 0.0}, Triggers()),
    ],
)
def test_a_policy_says_which_triggers_act(policy: str, extra: dict, expected: Triggers) -> None:
    assert active_triggers(Reload(policy=policy, **(BASE | extra))) == expected


@pytest.mark.parametrize(
    ("policy", "memory", "slopes", "expected"),
    [
        (Triggers(), [9] * 6, [9.0] * 6, {}),
        (Triggers(interval=2), [0] * 6, None, {2: "interval", 4: "interval"}),  # never the last
        (Triggers(threshold=5), [1, 5, 6, 1, 7, 9], None, {3: "threshold", 5: "threshold"}),
        (Triggers(interval=3, threshold=5), [1, 6, 1, 1, 1], None, {2: "threshold", 3: "interval"}),
        (Triggers(interval=2, threshold=5), [1, 6, 1], None, {2: "interval"}),
        (Triggers(leak=1.0), [9] * 4, [None, 1.0, 1.1, 5.0], {3: "leak"}),
        (
            Triggers(interval=2, threshold=5),
            [None, None, None, 6, 1],
            None,
            {2: "interval", 4: "interval"},
        ),
        (Triggers(threshold=5, leak=1.0), [1, 6, 1], [2.0, 2.0, 2.0], {1: "leak", 2: "threshold"}),
    ],
)
def test_decisions(policy: Triggers, memory: list, slopes: list | None, expected: dict) -> None:
    assert reasons(policy, memory, slopes) == expected


def test_a_leak_is_a_slope_of_growth_that_is_certain() -> None:
    decided = [
        reload_reason(
            Triggers(leak=1.0),
            PolicyState(),
            step=5,
            last_step=9,
            memory=9,
            slope=slope,
            grows=grows,
        )
        for slope, grows in ((2.0, True), (2.0, False), (0.5, True), (None, True))
    ]
    assert decided == ["leak", None, None, None]


@pytest.mark.parametrize(("version", "without_a_trend"), [(1, True), (2, False)])
def test_version_1_goes_by_the_slope_alone(version: int, without_a_trend: bool) -> None:
    config = replace(config_of(), version=version)
    assert growth_counts(config, None) == without_a_trend
    assert growth_counts(config, Trend(MB, 1))


def run_with_memory_stuck(policy: Triggers, steps: int, memory: int) -> list[tuple[int, str]]:
    state, reloads = PolicyState(), []
    for step in range(1, steps + 1):
        if reloads and reloads[-1][0] == step - 1:
            state, _ = update_back_off(policy, state, reloaded_at=step - 1, memory=memory)
        reason = reload_reason(policy, state, step=step, last_step=steps, memory=memory, slope=None)
        if reason:
            reloads.append((step, reason))
    return reloads


def test_an_ineffective_threshold_backs_off_2_4_8() -> None:
    reloads = run_with_memory_stuck(Triggers(threshold=5), steps=40, memory=6)
    assert [step for step, _ in reloads] == [1, 3, 7, 15, 31]


def test_the_interval_never_backs_off() -> None:
    reloads = run_with_memory_stuck(Triggers(interval=10, threshold=5), steps=60, memory=6)
    assert [s for s, reason in reloads if reason == "interval"] == [10, 20, 30, 40, 50]


def test_one_reload_that_helps_ends_the_back_off() -> None:
    policy, state = Triggers(threshold=5), PolicyState()
    for step in (1, 3, 7):
        state, ineffective = update_back_off(policy, state, reloaded_at=step, memory=6)
        assert ineffective
    state, ineffective = update_back_off(policy, state, reloaded_at=15, memory=5)
    assert not ineffective
    assert state == PolicyState()


def test_memory_that_was_not_read_leaves_the_back_off_as_it_was() -> None:
    state = PolicyState(next_look=7, wait=8)
    found = update_back_off(Triggers(threshold=5), state, reloaded_at=9, memory=None)
    assert found == (state, False)


@given(
    memory=st.lists(st.integers(0, 10), min_size=1, max_size=40),
    interval=st.integers(0, 10),
    threshold=st.integers(0, 10),
)
def test_any_one_trigger_is_enough_and_none_fires_alone(
    memory: list[int], interval: int, threshold: int
) -> None:
    both = reasons(Triggers(interval=interval, threshold=threshold), memory)
    either = reasons(Triggers(interval=interval), memory) | reasons(
        Triggers(threshold=threshold), memory
    )
    assert both.keys() == either.keys()
    assert len(memory) not in both
