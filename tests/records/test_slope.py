"""The robust slope against its definition and known lines."""

from __future__ import annotations

from itertools import combinations
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.records.slope import MOST_POINTS, WARM_UP_STEPS, SlopeWindow, theil_sen

memory = st.lists(st.integers(0, 2**40), min_size=2, max_size=90)


def over_all_pairs(ys: list[int]) -> float:
    return median((ys[j] - ys[i]) / (j - i) for i, j in combinations(range(len(ys)), 2))


@given(memory, st.integers(8, MOST_POINTS))
def test_each_step_has_the_median_over_all_pairs_of_its_window(ys: list[int], window: int) -> None:
    slopes = SlopeWindow(window)
    for _ in range(WARM_UP_STEPS):
        assert slopes.add(2**40) is None
    for end, value in enumerate(ys, start=1):
        expected = over_all_pairs(ys[end - window : end]) if end >= window else None
        assert slopes.add(value) == expected


@given(memory)
def test_the_slope_of_a_whole_run_is_the_median_over_all_pairs(ys: list[int]) -> None:
    assert theil_sen(list(enumerate(ys))) == over_all_pairs(ys)


@given(st.integers(-(2**20), 2**20), st.integers(0, 2**34), st.integers(8, 5 * MOST_POINTS))
def test_a_line_has_its_slope_however_long(slope: int, start: int, count: int) -> None:
    line = [start + slope * step for step in range(count)]
    window = SlopeWindow(count)
    assert [window.add(value) for value in [0] * WARM_UP_STEPS + line][-1] == slope
    assert theil_sen(list(enumerate(line))) == slope


@given(st.sets(st.integers(0, 49), max_size=10), st.integers(2**30, 2**40))
def test_wild_points_do_not_move_it(wild: set[int], height: int) -> None:
    ys = [height if step in wild else 1000 * step for step in range(50)]
    assert theil_sen(list(enumerate(ys))) == 1000


@pytest.mark.parametrize("window", [8, 50, 100])
def test_it_is_unknown_until_the_window_is_full(window: int) -> None:
    slopes = SlopeWindow(window)
    found = [slopes.add(7 * step) for step in range(WARM_UP_STEPS + window + 5)]
    assert found == [None] * (WARM_UP_STEPS + window - 1) + [7.0] * 6


def test_a_step_without_a_figure_counts_and_has_no_slope() -> None:
    slopes, missing = SlopeWindow(8), {12, 17, 18}
    found = [slopes.add(None if step in missing else 7 * step) for step in range(25)]
    assert found[17:] == [None, None, *[7.0] * 6]
    assert SlopeWindow(8).add(None) is None
