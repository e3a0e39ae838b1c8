"""Replayed steps: how far their losses may lie apart."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.supervise.replay import NONDETERMINISTIC_RTOL, repeated_events, same_loss

LOSSES = st.floats(min_value=1e-3, max_value=1e3)


@given(LOSSES)
def test_a_deterministic_replay_agrees_in_every_bit_or_not_at_all(loss: float) -> None:
    assert same_loss(loss, loss, rtol=0.0)
    assert not same_loss(loss, math.nextafter(loss, math.inf), rtol=0.0)


@given(LOSSES, st.floats(min_value=0.0, max_value=1.0))
def test_a_tolerance_is_relative(loss: float, share: float) -> None:
    rtol = NONDETERMINISTIC_RTOL
    assert same_loss(loss, loss * (1 + 0.99 * share * rtol), rtol=rtol)
    assert not same_loss(loss, loss * (1 + (1.1 + share) * rtol), rtol=rtol)


@given(LOSSES)
def test_a_loss_that_is_not_finite_equals_only_another_one(loss: float) -> None:
    assert same_loss(None, None, rtol=NONDETERMINISTIC_RTOL)
    assert not same_loss(loss, None, rtol=NONDETERMINISTIC_RTOL)
    assert not same_loss(None, loss, rtol=NONDETERMINISTIC_RTOL)


def test_only_events_of_a_step_itself_are_repeated() -> None:
    events = [{"event": "reload", "step": 3}, {"event": "worker_died", "step": 4}]
    assert repeated_events(events) == {("reload", 3)}


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, None])
@pytest.mark.parametrize("rtol", [0.0, NONDETERMINISTIC_RTOL])
def test_a_loss_that_is_not_finite_equals_itself(loss: float | None, rtol: float) -> None:
    """On file it is null, from the worker it comes as it is."""
    assert same_loss(None, loss, rtol=rtol)
    assert not same_loss(1.5, loss, rtol=rtol)
