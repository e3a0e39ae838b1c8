"""The explainer of a process, on real arrays: what it compares with, and what is many and small."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from lab.explain import census, python_heap
from lab.explain.explainer import Explainer, memory_is_heap
from lab.machine import process
from lab.records.growth import GrowthTest, Trend
from lab.train import memory


class Session:
    """As far as a census looks at it."""

    def __init__(self) -> None:
        self.progress = SimpleNamespace(censuses=None)
        self.growth = GrowthTest()
        self.kept: list[mx.array] = []


@pytest.fixture
def told() -> list[dict[str, Any]]:
    return []


def explainer(told: list[dict[str, Any]]) -> Explainer:
    return Explainer(None, told.append, shared=True, cache_is_cleared=False, warn=pytest.fail)


def grow(session: Session, count: int, size: int) -> None:
    session.kept += [mx.zeros((size,)) for _ in range(count)]
    mx.eval(session.kept)


def test_growth_after_a_remedy_is_compared_with_what_the_remedy_left(
    told: list[dict[str, Any]],
) -> None:
    """There are fewer arrays than before it, and still they become more."""
    session, explains = Session(), explainer(told)
    for step in range(1, 60):
        if step in (31, 35):  # two remedies, the second of which helps
            session.growth = GrowthTest()
        if step == 35:
            session.kept.clear()
        grow(session, 1, 2**18)  # far more than this process grows by itself
        trend = Trend(2**20, since=2 if step <= 30 else 36)
        growing = 8 <= step <= 30 or step >= 42
        explains.after_step(session, step, memory.read(), trend if growing else None)
    path = f"{__name__}.Session.kept["
    assert [found["kind"] for found in told] == ["active", "active"]
    assert all((found["holder"] or "").startswith(path) for found in told)


def test_growth_of_the_heap_is_told_where_the_process_is_too_noisy_to_tell(
    told: list[dict[str, Any]],
) -> None:
    """Ragged batches: the process swings by 60 MB, and may have come down since the baseline."""
    session, explains = Session(), explainer(told)
    for step in range(1, 20):
        reading = SimpleNamespace(active=2**29 + step, cache=0, process=2**30 - step * 5 * 2**20)
        trend = Trend(2**20, since=8, outside=True, cache=False, heap=2**20)
        explains.after_step(session, step, reading, trend if step >= 14 else None)
    [found] = told
    assert found["kind"] in ("native", "python")
    assert found["mb_per_step"] == pytest.approx(1.0, rel=0.01)


@pytest.mark.skipif(process.heap_holes_bytes() is None, reason="the C heap does not tell its holes")
def test_holes_in_the_heap_are_told_where_the_process_is_too_noisy_to_tell(
    told: list[dict[str, Any]],
) -> None:
    """A tenth of each buffer stays; what was cut off it is free, and nobody's."""
    session, explains, noise = Session(), explainer(told), Random(0)
    session.lines: list[bytearray] = []  # type: ignore[misc]
    for step in range(1, 40):
        buffers = [bytearray(4000) for _ in range(256)]
        for buffer in buffers:
            del buffer[400:]
        session.lines += buffers
        swing = noise.uniform(-30, 30) * 2**20
        reading = SimpleNamespace(active=0, cache=0, process=2**30 + int(swing))
        trend = Trend(0.1 * 2**20, since=8, outside=True, cache=False, heap=0.1 * 2**20)
        explains.after_step(session, step, reading, trend if step >= 14 else None)
    assert told[0]["kind"] == "native"
    assert "Session.lines" in told[0]["holder"]
    # Of which what lies in this process's own free pieces is no growth; 0.1 without the holes.
    assert 0.5 < told[0]["mb_per_step"] < 1.2


def test_many_small_arrays_are_told_as_arrays(told: list[dict[str, Any]]) -> None:
    """Each takes a hundred times its content, none of which MLX counts."""
    session, explains, trend = Session(), explainer(told), Trend(2**20, since=2)
    for step in range(1, 12):
        grow(session, 2000, 1)
        explains.after_step(session, step, memory.read(), trend if step > 10 else None)
    [found] = told
    assert found["kind"] == "active"
    assert found["holder"].startswith(f"{__name__}.Session.kept[")
    assert sum(row["mb_per_step"] for row in found["kinds"]) == pytest.approx(found["mb_per_step"])
    assert found["advice"].startswith(f"Empty {__name__}.Session.kept, or keep")


def test_what_an_array_takes_beside_its_content() -> None:
    assert 200 < census.array_overhead() < 2000


def test_classes_of_one_name_count_together() -> None:
    """As a class that a function makes at each call."""

    def make() -> object:
        class Local:
            pass

        return Local()

    before = census.take(1, None)
    kept = [make() for _ in range(7)]
    grown = dict(census.grown_types(before, census.take(2, None)))
    name = f"{__name__}.{test_classes_of_one_name_count_together.__name__}.<locals>.make.<locals>"
    assert grown[f"{name}.Local"] == len(kept)


def test_a_batch_that_is_made_a_step_ahead_is_no_growth_of_python() -> None:
    """When tracing begins two of them are there already, which it does not see."""
    size, step = 100_000, 1
    batch, following = bytearray(size), bytearray(size)
    trace, grown = python_heap.Trace(step), None
    while grown is None:
        step += 1
        batch, following = following, bytearray(size)
        grown = trace.after_step(step, 3, enough=size / 2)
    assert (len(batch), len(following)) == (size, size)
    assert grown.bytes_per_step < size / 20


def test_slow_growth_is_traced_longer_than_a_list_that_is_moved_tells() -> None:
    """A list's items are not new when it needs more room, but all of its room is."""
    rate, step, items = 25_000, 1, [0] * 3000
    trace, grown = python_heap.Trace(step), None
    steps = python_heap.steps_to_trace(rate)
    while grown is None:
        step += 1
        if step == 4:
            items += [0] * 100
        grown = trace.after_step(step, steps, enough=rate / 2)
    assert len(items) == 3100
    assert grown.bytes_per_step < 0.2 * rate
    assert python_heap.steps_to_trace(2**20) == 3


def test_on_metal_a_run_on_the_cpu_takes_nothing_from_the_heap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    assert not memory_is_heap()
