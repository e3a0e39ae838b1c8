"""MLX's limits, as they are set on a Mac; growth of what is really held."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import mlx.core as mx
import pytest

from lab.config.units import GB, MB
from lab.machine import process
from lab.train import memory
from tests.runs import config_of

M3_MAX = {
    "device_name": "Apple M3 Max",
    "memory_size": 64 * GB,
    "max_recommended_working_set_size": 48 * GB,
}


@pytest.mark.usefixtures("mlx_like_metal")
@pytest.mark.parametrize(
    ("override", "wired"),
    [
        ("memory.limit_gb=40", 0.6 * 48),
        ("memory.limit_gb=20", 20),  # no more than MLX is to take
        ("memory.wired_fraction=0.25", 12),
        ("memory.wired_fraction=0", 0),
    ],
)
def test_a_part_of_the_working_set_is_wired(override: str, wired: float, limits: list[int]) -> None:
    memory.set_limits(config_of("memory.limit_gb=40", override).memory)
    memory.release_wired()
    assert limits == [int(wired * GB), 0]


@pytest.fixture
def limits() -> list[int]:
    return []


@pytest.fixture
def mlx_like_metal(monkeypatch: pytest.MonkeyPatch, limits: list[int]) -> None:
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda: M3_MAX)
    for name in ("set_cache_limit", "set_memory_limit"):
        monkeypatch.setattr(mx, name, lambda limit: None)
    monkeypatch.setattr(mx, "set_wired_limit", limits.append)


def test_a_device_that_names_no_working_set_has_nothing_wired() -> None:
    assert memory.wired_limit({}, config_of().memory) == 0


needs_heap = pytest.mark.skipif(process.heap_bytes() is None, reason="the heap is not read here")
KEEPERS = [
    pytest.param(lambda: mx.zeros((1 << 18,)), id="arrays"),
    pytest.param(lambda: bytearray(MB), id="heap", marks=needs_heap),
    pytest.param(lambda: [float(n) for n in range(1 << 15)], id="objects", marks=needs_heap),
]


@pytest.mark.parametrize("make", KEEPERS)
@pytest.mark.parametrize("keeps", [True, False])
def test_what_is_held_is_growth_and_what_is_dropped_is_not(
    make: Callable[[], object], keeps: bool
) -> None:
    """About 1 MB a step."""
    test, heap = memory.growth_test(config_of().memory), memory.HeapReader()
    held: deque[object] = deque(maxlen=None if keeps else 1)
    trends = []
    for step in range(1, 25):
        held.append(make())
        mx.eval([item for item in (held[-1],) if isinstance(item, mx.array)])
        at = memory.read()
        trends.append(
            test.add(
                step,
                active=at.active,
                cache=at.cache,
                process=at.process,
                heap=heap.read(at, share=1.0),
            )
        )
    assert any(trends[:14]) == keeps
    assert any(trends) == keeps
    if keeps:
        assert 0.7 * MB < trends[-1].bytes_per_step < 1.6 * MB


@needs_heap
def test_the_heap_is_read_as_often_as_its_cost_allows() -> None:
    heap, at = memory.HeapReader(), memory.read()
    assert [heap.read(at) is None for _ in range(3)] == [False, True, True]


@needs_heap
def test_a_reading_that_had_to_wait_puts_the_next_one_off_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = process.heap_bytes

    def waits() -> int | None:
        time.sleep(0.1)  # as where other processes have the processor
        return read()

    monkeypatch.setattr(process, "heap_bytes", waits)
    heap, at = memory.HeapReader(), memory.read()
    assert heap.read(at) is not None
    limit = time.perf_counter() + 5  # by the clock it would be half a minute
    while (found := heap.read(at)) is None and time.perf_counter() < limit:
        pass
    assert found is not None
