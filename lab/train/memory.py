"""Memory of the training process: one reading a step, and MLX's limits."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from lab.config.keys import Memory
from lab.config.units import GB
from lab.machine import process
from lab.records.growth import GrowthTest

_LEAST_OBJECT = 32  # bytes of an int or a float, which Python takes from pools of its own


@dataclass(frozen=True, slots=True)
class Reading:
    """All memory figures at one moment, in bytes; None for one that the system did not give.

    Attributes:
        active: held by arrays that MLX counts.
        cache: freed by MLX but kept for the next allocation.
        peak: highest ``active`` since the reading before this one.
        process: resident memory (Linux) or physical footprint (macOS) of this process.
        available: what the machine (or its cgroup) could still give.
        swap: swap in use on the machine.
    """

    active: int
    cache: int
    peak: int
    process: int | None
    available: int | None
    swap: int | None

    def metric(self, name: str) -> int | None:
        """The figure that a reload policy looks at: ``active``, ``mlx`` or ``process``."""
        return self.active + self.cache if name == "mlx" else getattr(self, name)

    def row(self) -> dict[str, float | None]:
        """The figures under the keys of ``metrics.jsonl``, in GB."""
        figures = {f"memory/{name}_gb": getattr(self, name) for name in self.__slots__}
        return {key: None if value is None else value / GB for key, value in figures.items()}


def read() -> Reading:
    """Read every figure and reset MLX's peak, which thus covers the time since the last reading.

    On a GPU completion handlers give a step's temporaries back, after ``mx.eval`` has returned.
    ``mx.synchronize`` waits for them too; before it active memory may hold all of them.
    """
    if mx.default_device().type == mx.gpu:
        mx.synchronize()
    available, swap = process.available_and_swap_bytes()
    reading = Reading(
        active=mx.get_active_memory(),
        cache=mx.get_cache_memory(),
        peak=mx.get_peak_memory(),
        process=process.process_bytes(),
        available=available,
        swap=swap,
    )
    mx.reset_peak_memory()
    return reading


class HeapReader:
    """Reads what the process's heap holds beside MLX's arrays, as often as its cost allows."""

    def __init__(self) -> None:
        self._not_before = 0.0

    def read(self, reading: Reading, *, share: float = 1 / 300) -> int | None:
        """Bytes in use, of Python's own small objects at least 32 each; None where not read.

        Arguments:
            reading: of the same moment.
            share: of the time, which is the most to be spent here. What counts is the processor's:
                on a busy machine a reading that had to wait does not put off the next ones.
        """
        now, began = time.perf_counter(), time.thread_time()
        if now < self._not_before:
            return None
        heap = process.heap_bytes()
        if heap is not None:
            heap += _LEAST_OBJECT * sys.getallocatedblocks()
            if mx.default_device().type == mx.cpu:
                heap -= reading.active + reading.cache
        self._not_before = now + (time.thread_time() - began) / share
        return heap


def growth_test(memory: Memory) -> GrowthTest:
    """A test for growth, told what bounds MLX's cache and whether the process holds its arrays."""
    on_cuda = mx.default_device().type == mx.gpu and not mx.metal.is_available()
    return GrowthTest(
        cache_clear_interval=memory.cache_clear_interval,
        cache_limit=memory.cache_limit_gb * GB,
        arrays_in_process=not on_cuda,
    )


def set_limits(memory: Memory) -> None:
    """Set MLX's cache, memory and wired limits.

    The memory limit raises nothing: above it Metal and CUDA reclaim cache, the CPU ignores it.
    """
    mx.set_cache_limit(int(memory.cache_limit_gb * GB))
    mx.set_memory_limit(int(memory.limit_gb * GB))
    if mx.metal.is_available():
        mx.set_wired_limit(wired_limit(mx.device_info(), memory))


def wired_limit(device: Mapping[str, Any], memory: Memory) -> int:
    """Bytes that MLX may wire, so that the system can neither compress nor swap them.

    All of the working set would leave the rest of the machine to swap, and a worker that is killed
    can leave what it wired wired until the machine is started again.

    Arguments:
        device: ``mx.device_info()`` on Metal.
    """
    recommended = int(device.get("max_recommended_working_set_size") or 0)
    return min(int(memory.wired_fraction * recommended), int(memory.limit_gb * GB))


def release_wired() -> None:
    """Unwire memory before the process ends: on macOS a killed process can leak it until reboot."""
    if mx.metal.is_available():
        mx.set_wired_limit(0)


def release_unused() -> None:
    """Return freed memory to the OS: collect cycles, clear MLX's cache, trim the heap."""
    gc.collect()
    mx.clear_cache()
    process.trim_heap()
