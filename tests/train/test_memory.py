"""MLX's limits, as they are set on a Mac."""

from __future__ import annotations

import mlx.core as mx
import pytest

from lab.config.units import GB
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
