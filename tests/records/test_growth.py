"""When growth is certain, and what never makes it so."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.explain import recorded_traces
from lab.config.units import GB, MB
from lab.records.growth import GrowthTest, Trend

BASE = 40 * MB
few = settings(max_examples=50, deadline=None)
seeds = st.integers(0, 2**32)


def trends(rest: Iterable[float], *, active: float = MB, test: GrowthTest | None = None) -> list:
    """What the test says at each step of a run whose memory outside MLX is given."""
    test = test or GrowthTest(cache_clear_interval=10)
    return [
        test.add(step, active=int(active), cache=8 * MB, process=int(active + 8 * MB + value))
        for step, value in enumerate(rest, start=1)
    ]


def certain_at(found: Sequence[Trend | None]) -> int:
    """The first step at which growth is certain; 0: never."""
    return next((step for step, trend in enumerate(found, start=1) if trend), 0)


def in_active(values: Iterable[float], test: GrowthTest | None = None) -> list[Trend | None]:
    test = test or GrowthTest()
    return [
        test.add(step, active=int(value), cache=0, process=2 * GB)
        for step, value in enumerate(values, start=1)
    ]


# --- Steady state -------------------------------------------------------------------------------


@given(st.integers(0, 2**40), st.integers(1, 400))
def test_memory_that_stays_is_not_growth(value: int, steps: int) -> None:
    assert not any(trends([value] * steps))


@few
@given(st.lists(st.tuples(st.integers(0, 399), st.integers(1, 64)), max_size=5))
def test_single_steps_of_any_height_are_not_growth(steps: list[tuple[int, int]]) -> None:
    held = [BASE + MB * sum(size for at, size in steps if at <= step) for step in range(400)]
    assert not any(trends(held))
    assert not any(in_active(held))


@few
@given(st.integers(1, 120), st.integers(1, 200 * MB), st.integers(0, 100), seeds)
def test_saw_teeth_of_any_period_and_height_are_not_growth(
    period: int, height: int, phase: int, seed: int
) -> None:
    """What a cleared cache leaves in the heap falls as the cache takes it again."""
    noise = Random(seed)
    held = [
        BASE + height * (1 - (step + phase) % period / period) + noise.uniform(0, 0.2 * MB)
        for step in range(400)
    ]
    assert not any(trends(held))


@few
@given(st.floats(0.1, 30), st.floats(0, 200))
def test_a_warm_up_that_saturates_is_not_growth(tau: float, height: float) -> None:
    assert not any(trends(BASE + height * MB * (1 - math.exp(-s / tau)) for s in range(400)))


def test_noise_that_comes_back_is_hardly_ever_growth() -> None:
    """Over 200 runs, which are always the same ones: at most 1 %."""
    alarms = 0
    for seed in range(200):
        noise, level, held = Random(seed), 0.0, []
        rho, sigma = noise.choice((0.0, 0.5, 0.9, 0.98)), 10 ** noise.uniform(-3, 1.5)
        for _ in range(300):
            level = rho * level + math.sqrt(1 - rho * rho) * noise.gauss(0, sigma)
            held.append(BASE + abs(level) * MB)
        alarms += any(trends(held))
    assert alarms <= 2


@few
@given(st.integers(1, 10**9), st.lists(st.integers(0, 2**24), min_size=20, max_size=200))
def test_a_shift_of_all_readings_changes_nothing(shift: int, noise: list[int]) -> None:
    growing = [step * MB // 4 + value for step, value in enumerate(noise)]
    first, second = (
        [
            test.add(step, active=MB, cache=0, process=None, heap=value + moved)
            for step, value in enumerate(growing, start=1)
        ]
        for test, moved in ((GrowthTest(), 0), (GrowthTest(), shift))
    )
    assert first == second


def test_a_cache_that_its_limit_or_a_clearing_ends_is_not_growth() -> None:
    for test in (GrowthTest(cache_limit=100 * MB), GrowthTest(cache_clear_interval=90)):
        for step in range(1, 91):
            cache = min(step * 3 * MB, 100 * MB)
            assert test.add(step, active=MB, cache=cache, process=BASE + MB + cache) is None


@pytest.mark.parametrize("reads_heap", [True, False])
def test_no_recorded_run_grows(reads_heap: bool) -> None:
    """Real ones, without a fault: python -m benchmarks.explain_traces made them."""
    traces = recorded_traces()
    assert len(traces) > 100
    chosen = traces if reads_heap else [trace.without_heap() for trace in traces]
    assert [trace.name for trace in chosen if trace.certain_at()] == []


# --- Growth -------------------------------------------------------------------------------------


@given(st.floats(0.3, 100), st.integers(0, 300))
def test_active_memory_that_grows_is_certain_within_12_steps(rate: float, start: int) -> None:
    held = [BASE + max(0, step - start) * rate * MB for step in range(start + 13)]
    found = in_active(held)
    assert start < certain_at(found) <= start + 13
    assert found[-1].bytes_per_step == pytest.approx(rate * MB, rel=0.15)
    assert abs(found[-1].since - start) <= 2


@few
@given(st.floats(0.05, 4), st.floats(0.01, 0.3), st.integers(64, 200), seeds)
def test_growth_of_the_process_is_certain_over_noise(
    rate: float, sigma: float, start: int, seed: int
) -> None:
    noise = Random(seed)
    held = [
        BASE + max(0, step - start) * rate * MB + noise.gauss(0, sigma) * MB
        for step in range(start + 500)
    ]
    found = trends(held)
    assert start < certain_at(found) <= start + 500
    assert found[-1].bytes_per_step == pytest.approx(rate * MB, rel=0.2)


def test_growth_from_the_first_step_is_certain_in_the_warm_up() -> None:
    assert 1 <= certain_at(trends(BASE + step * MB for step in range(30))) <= 24
    assert 1 <= certain_at(in_active(BASE + step * MB for step in range(30))) <= 12


@few
@given(st.integers(1, 16), st.integers(70, 150))
def test_growth_in_lumps_is_certain(every: int, start: int) -> None:
    held = [
        BASE + max(0, step - start) // every * every * MB for step in range(start + 20 * every + 60)
    ]
    assert start < certain_at(trends(held))
    assert start < certain_at(in_active(held))


def test_growth_of_the_heap_is_certain_where_the_process_is_too_noisy_to_tell() -> None:
    noise, test = Random(0), GrowthTest(cache_clear_interval=10)
    found = [
        test.add(
            step,
            active=500 * MB,
            cache=100 * MB,
            process=int(700 * MB + noise.uniform(0, 90 * MB) + max(0, step - 100) * MB),
            heap=15 * MB + max(0, step - 100) * MB,
        )
        for step in range(1, 112)
    ]
    assert 100 < certain_at(found) <= 110
    assert found[-1].bytes_per_step == found[-1].heap == pytest.approx(MB, rel=0.05)


# MB of SmolLM2's MLX cache in a real run with fault=ragged_cache from step 20 on: it grows at every
# second step or so, and a batch of a new length fills it by 43 or 60 MB at once.
RAGGED_CACHE = (
    "87 134 266 266 267 267 300 301 301 302 308 308 308 308 308 308 308 308 308 309 310 311 312 "
    "313 314 315 316 317 318 362 363 364 365 366 366 368 369 370 370 372 374 374 375 377 377 378 "
    "378 380 382 382 384 384 386 446 448 448 450 450 452 452 454 454 456 456 458 458 460 460 460"
)


def test_jumps_on_the_way_do_not_hide_growth() -> None:
    test, found = GrowthTest(cache_limit=8 * GB), []
    for step, cache in enumerate(map(int, RAGGED_CACHE.split()), start=1):
        found.append(test.add(step, active=514 * MB, cache=cache * MB, process=None))
    assert 20 < certain_at(found) <= 20 + 50


def test_of_memory_that_is_not_in_the_process_the_process_may_hold_less() -> None:
    test = GrowthTest(cache_clear_interval=10, arrays_in_process=False)
    found = [
        test.add(s, active=8 * GB + s % 7 * GB, cache=GB, process=2 * GB + s * MB)
        for s in range(1, 100)
    ]
    assert found[-1].bytes_per_step == pytest.approx(MB, rel=0.05)


def test_a_process_that_is_not_read_leaves_the_other_channels() -> None:
    test = GrowthTest()
    found = [test.add(s, active=s * MB, cache=0, process=None) for s in range(1, 20)]
    assert certain_at(found) <= 12


def test_several_growths_add_up() -> None:
    noise, test = Random(0), GrowthTest(cache_clear_interval=10)
    for step in range(1, 400):
        active, rest = step * MB, BASE + step * 2 * MB + noise.gauss(0, 0.3) * MB
        trend = test.add(step, active=active, cache=0, process=int(active + rest))
    assert trend is not None
    assert trend.bytes_per_step == pytest.approx(3 * MB, rel=0.02)


def test_growth_that_ends_is_no_longer_told_and_may_come_again() -> None:
    held = [BASE + min(step, 40) * MB + max(0, step - 600) * MB for step in range(700)]
    found = in_active(held)
    assert found[45]
    assert not any(found[250:600])
    assert found[-1]
    assert found[-1].bytes_per_step == pytest.approx(MB, rel=0.05)
    assert found[-1].since == pytest.approx(600, abs=3)


def test_a_million_steps_of_growth_stay_finite() -> None:
    test = GrowthTest()
    for step in range(1, 30_000):
        trend = test.add(step, active=step * MB, cache=0, process=step * MB)
    assert trend is not None
    assert math.isfinite(trend.bytes_per_step)


@pytest.mark.parametrize("channel", ["active", "cache", "heap"])
def test_it_says_which_part_is_certain_to_grow(channel: str) -> None:
    test, found = GrowthTest(), None
    for step in range(1, 61):
        figures = {"active": 9 * MB, "cache": 9 * MB, "heap": 9 * MB}
        figures[channel] += step * MB
        found = test.add(step, **figures, process=None)
    assert found is not None
    assert (found.outside, found.cache) == (channel == "heap", channel == "cache")
    assert (found.heap is None) == (channel != "heap")
    settled = [test.add(100 + s, active=0, cache=0, process=(s + 99) * MB) for s in range(200)]
    assert settled[-1].heap is None
