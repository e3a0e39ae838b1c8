"""Where the memory lay at a run's peaks: parts that add up, and none that nobody measured."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.config.units import GB
from lab.records.peak import memory_at_peak

LINUX = {"device": "Device(cpu, 0)", "platform": "Linux-6-x86_64"}
gigabytes = st.floats(0.001, 100)


def row(step: int, active: float, peak: float, cache: float, process: float) -> dict[str, Any]:
    figures = {"active": active, "peak": peak, "cache": cache, "process": process}
    return {"step": step, **{f"memory/{name}_gb": value for name, value in figures.items()}}


def started(weights: float, optimizer: float | None, **environment: str) -> dict[str, Any]:
    state = None if optimizer is None else optimizer * GB
    facts = {"weights_bytes": weights * GB, "optimizer_bytes": state}
    return {"event": "worker_started", "facts": facts, "environment": LINUX | environment}


def test_each_peak_is_told_of_its_own_step() -> None:
    rows = [row(1, 1, 4, 0.5, 2), row(2, 1, 3, 0.5, 3), row(3, 1, 2, 0, 2)]
    assert memory_at_peak(rows, [started(0.5, 0.25)]) == {
        "mlx": {
            "step": 1,
            "weights_gb": 0.5,
            "optimizer_gb": 0.25,
            "other_gb": 0.25,
            "activations_gb": 3,
        },
        "process": {"step": 2, "active_gb": 1, "cache_gb": 0.5, "rest_gb": 1.5},
    }


@given(gigabytes, gigabytes, gigabytes, gigabytes, gigabytes, gigabytes)
def test_parts_add_up_to_the_peak_and_none_is_negative(
    active: float, peak: float, cache: float, process: float, weights: float, optimizer: float
) -> None:
    found = memory_at_peak([row(7, active, peak, cache, process)], [started(weights, optimizer)])
    for name, whole in (("mlx", peak), ("process", process)):
        parts = {key: gb for key, gb in found.get(name, {}).items() if key != "step"}
        assert all(gb >= 0 for gb in parts.values())
        assert not parts or sum(parts.values()) == pytest.approx(whole)


def test_what_is_not_known_is_not_told() -> None:
    rows = [row(1, 1, 4, 0.5, 2)]
    older = memory_at_peak(rows, [{"event": "worker_started", "environment": LINUX}])
    assert older["mlx"] == {"step": 1, "other_gb": 1, "activations_gb": 3}
    assert "optimizer_gb" not in memory_at_peak(rows, [started(0.5, None)])["mlx"]
    on_cuda = started(0.5, 0.25, device="Device(gpu, 0)")
    assert set(memory_at_peak(rows, [on_cuda])) == {"mlx"}
    assert memory_at_peak([{"step": 1}], []) == {}
