"""Kinds of growth: arithmetic on rates, whose parts add up to the process's growth."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.config.units import MB
from lab.explain.explanation import Explanation, Measured, works
from lab.explain.kinds import KINDS, Rates, has_unknown_part, kind_of, largest, split
from lab.explain.readings import Readings, Slopes
from lab.explain.report import headline

# process, active, cache, visible, then what tells the rest; the largest kind.
CASES = [
    ({"process": 1.0, "active": 1.0, "visible": 1.0}, "active"),
    ({"process": 1.0, "active": 1.0, "visible": 0.0, "lazy_operations": 5}, "lazy_graph"),
    ({"process": 1.0, "active": 1.0, "visible": 0.0, "traces": 1}, "compile_cache"),
    ({"process": 1.0, "active": 1.0, "visible": 0.0}, "active"),  # views of larger buffers
    ({"process": 1.0, "active": 0.4, "visible": 0.4, "lazy_operations": 5, "heap": 0.6}, "native"),
    ({"process": 1.0, "cache": 1.0}, "cache"),
    ({"process": None, "cache": 1.0}, "cache"),
    ({"process": 0.2, "active": 1.0, "visible": 1.0}, "active"),  # it fills heap freed before
    ({"process": 1.0, "traces": 1}, "compile_cache"),
    ({"process": 1.0, "traces": 0.01, "heap": 1.0}, "native"),
    ({"process": 1.0, "python": 0.9, "heap": 1.0}, "python"),
    ({"process": 1.0, "python": 0.1, "heap": 0.9}, "native"),
    ({"process": 1.0, "python": 0.1, "heap": 0.0}, "other"),
    ({"process": 1.0, "streams": 3}, "native"),
    ({"process": 0.1, "active": 1.0, "visible": 1.0, "shared": False}, "active"),
    # fault=prefetch on batches of 2 x 64: more bookkeeping than content
    (
        {"process": 2.19, "active": 1.0, "visible": 1.0, "heap": 2.05, "arrays": 2048.0}
        | {"overhead": 427 / 2**20},
        "active",
    ),
    ({"process": 1.2, "heap": 1.0, "arrays": 2000.0, "overhead": 427 / 2**20}, "active"),
    ({"process": 1.2, "heap": 1.0, "arrays": 100.0, "overhead": 427 / 2**20}, "native"),
]


def rates(**given: object) -> Rates:
    return Rates(**{"process": 0.0, "active": 0.0, "cache": 0.0, "visible": 0.0, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize(("measured", "kind"), CASES)
def test_the_largest_kind(measured: dict, kind: str) -> None:
    assert largest(split(rates(**measured))) == kind


def test_what_is_not_certain_to_grow_is_not_told() -> None:
    """Ragged SmolLM2 with fault=trainer_list, 10 steps: the rest of the process warms up."""
    measured = rates(process=5.8, active=1.0, visible=1.0, heap=4.8, outside_is_certain=False)
    assert kind_of(measured) == "active"
    assert not has_unknown_part(measured.certain)
    assert sum(split(measured).values()) == pytest.approx(5.8)
    filling = rates(process=9.0, active=1.0, visible=1.0, cache=8.0, cache_is_certain=False)
    assert kind_of(filling) == "active"


RATE = st.floats(-1e9, 1e9, allow_nan=False)


@given(
    st.none() | RATE, RATE, RATE, RATE, st.booleans(), st.floats(0, 10), st.floats(0, 10),
    st.none() | RATE, st.none() | RATE, st.floats(-1e6, 1e6), st.floats(0, 1e4),
)  # fmt: skip
def test_the_kinds_add_up_and_none_is_negative(
    process, active, cache, visible, shared, lazy, traces, python, heap, arrays, overhead
) -> None:
    measured = Rates(
        process=process,
        active=active,
        cache=cache,
        visible=visible,
        shared=shared,
        lazy_operations=lazy,
        traces=traces,
        python=python,
        heap=heap,
        arrays=arrays,
        overhead=overhead,
    )
    kinds = split(measured)
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) >= 0
    assert sum(kinds.values()) == pytest.approx(measured.total, rel=1e-6, abs=1e-3)
    if process is not None and process >= max(active, 0) + max(cache, 0) and shared:
        assert measured.total == process


def test_python_is_traced_only_where_nothing_else_explains_the_growth() -> None:
    assert has_unknown_part(rates(process=1.0))
    assert not has_unknown_part(rates(process=1.0, active=0.9))
    assert not has_unknown_part(rates(process=1.0, traces=1.0))
    assert not has_unknown_part(rates(process=1.0, streams=1.0))
    assert not has_unknown_part(rates(process=1.0, arrays=1000, overhead=0.0008))


# MB of MLX's active memory, its cache and the process after each step of fault=lazy_loss at 1 MB a
# step, recorded on an H100: the cache fills until it is cleared every 10 steps.
ON_CUDA = [
    (1.94, 28.17, 1505.43), (2.99, 30.11, 1505.44), (3.96, 33.28, 1505.44), (5.01, 33.99, 1505.45),
    (5.98, 34.15, 1505.50), (7.03, 34.62, 1505.51), (8.00, 34.65, 1505.51),
]  # fmt: skip


def slopes_on_cuda() -> Slopes:
    readings = Readings()
    for step, figures in enumerate(ON_CUDA, start=1):
        active, cache, process = (round(mb * MB) for mb in figures)
        readings.add(step, active=active, cache=cache, process=process)
    return readings.slopes(1)


def test_a_cache_that_is_cleared_and_fills_is_no_growth() -> None:
    filling, lasting = slopes_on_cuda(), slopes_on_cuda().without_cache(shared=False)
    assert filling.cache > 0.4 * MB
    figures = {name: getattr(lasting, name) for name in ("active", "cache", "process")}
    measured = Rates(**figures, visible=0.0, shared=False, lazy_operations=16)
    kinds = split(measured)
    assert (kinds["cache"], largest(kinds)) == (0, "lazy_graph")
    assert measured.total == pytest.approx(1.03 * MB, rel=0.01)
    together = replace(filling, process=filling.active + filling.cache)
    assert together.without_cache(shared=True).process == pytest.approx(filling.active)


def test_growth_that_begins_late_has_its_rate() -> None:
    """Of a long run old readings are thinned out, the newest are all there."""
    readings = Readings()
    for step in range(1, 30_008):
        active = max(step - 30_000, 0) * MB
        readings.add(step, active=active, cache=0, process=active)
    assert readings.slopes(30_000).active == MB
    assert readings.slopes(29_000).active == 0  # most of these steps did not grow
    assert len(readings._steps) <= 512


def test_no_remedy_works_where_nothing_grew() -> None:
    nothing = Measured("clear_cache", process=0, active=0, cache=0, seconds=0.0)
    assert not works(nothing, "active", 0)
    assert not works(nothing, "python", -1)


def test_the_line_tells_the_rate_of_the_kind_that_it_names() -> None:
    """The same run, with its rates as they were once written."""
    kinds = {"lazy_graph": 1.01025390625, "cache": 0.4469401041666667}
    found = Explanation(grows=True, mb_per_step=1.4747721354166667, kinds=kinds, kind="lazy_graph")
    assert headline(found).startswith("memory grows by 1 MB a step: lazy graphs")


def test_a_remedy_is_that_of_all_growth_where_most_is_of_its_kind() -> None:
    def sole(**kinds: float) -> str | None:
        return Explanation(kinds=kinds, kind="active", remedy="reload_in_process").sole_remedy

    assert sole(active=1.0) == sole(active=3.0, cache=1.0) == "reload_in_process"
    assert sole(active=2.9, cache=1.0) is sole(cache=1.0) is sole() is None
    assert Explanation(kinds={"active": 1.0}, kind="active", remedy="none").sole_remedy is None
