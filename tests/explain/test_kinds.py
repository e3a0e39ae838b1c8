"""Kinds of growth: arithmetic on rates, whose parts add up to the process's growth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.explain.kinds import KINDS, Rates, has_unknown_part, largest, split

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
]


def rates(**given: object) -> Rates:
    return Rates(**{"process": 0.0, "active": 0.0, "cache": 0.0, "visible": 0.0, **given})  # type: ignore[arg-type]


@pytest.mark.parametrize(("measured", "kind"), CASES)
def test_the_largest_kind(measured: dict, kind: str) -> None:
    assert largest(split(rates(**measured))) == kind


RATE = st.floats(-1e9, 1e9, allow_nan=False)


@given(
    st.none() | RATE, RATE, RATE, RATE, st.booleans(), st.floats(0, 10), st.floats(0, 10),
    st.none() | RATE, st.none() | RATE,
)  # fmt: skip
def test_the_kinds_add_up_and_none_is_negative(
    process, active, cache, visible, shared, lazy, traces, python, heap
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
