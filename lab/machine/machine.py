"""Hardware that one process may use: backend, cores, memory, and the training budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lab.config.units import GB

BUDGET_SHARE = 0.8  # of the memory; the rest is for the system and what MLX does not count


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The part of a computer that one process may use.

    Attributes:
        backend: MLX's, ``cpu``, ``metal`` or ``cuda``.
        cores: threads that can run at once, after affinity and the cgroup's quota.
        memory_bytes: memory that the process may use: the machine's or its cgroup's on the CPU,
            unified memory on Metal, the device's on CUDA.
        budget_bytes: the most that training should use of it.
    """

    system: str
    architecture: str
    backend: str
    device_name: str
    cores: int
    memory_bytes: int
    budget_bytes: int

    @property
    def memory_gb(self) -> float:
        return round(self.memory_bytes / GB, 2)

    @property
    def budget_gb(self) -> float:
        return round(self.budget_bytes / GB, 2)

    def share(self, jobs: int) -> Machine:
        """The machine for one of ``jobs`` that run side by side: a part of the budget and cores."""
        return replace(
            self, cores=max(1, self.cores // jobs), budget_bytes=self.budget_bytes // jobs
        )


def describe(
    backend: str,
    info: Mapping[str, Any],
    *,
    memory: int,
    cores: int,
    system: str,
    architecture: str,
) -> Machine:
    """Build a Machine from ``mx.device_info()``, whose keys differ between backends and versions.

    Arguments:
        memory: bytes that the system lets this process use; for devices without their own.
    """
    total = int(info.get("total_memory") or info.get("memory_size") or memory)
    if backend == "cpu":
        total = memory
    elif backend == "metal":
        total = min(total, memory)
    budget = int(BUDGET_SHARE * total)
    if backend == "metal":
        budget = int(info.get("max_recommended_working_set_size") or budget)
    return Machine(
        system=system,
        architecture=architecture,
        backend=backend,
        device_name=str(info.get("device_name") or info.get("architecture") or architecture),
        cores=cores,
        memory_bytes=total,
        budget_bytes=budget,
    )
