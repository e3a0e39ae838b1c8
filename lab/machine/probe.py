"""Probe this machine from a process that must not import MLX.

The process that composes and supervises a run starts a short-lived child (:func:`probe_machine`),
``python -m lab.machine``, which imports MLX and prints a :class:`Machine` as JSON.
"""

from __future__ import annotations

import functools
import json
import platform
import subprocess
import sys
from typing import Any

from lab.machine.interpreter import environment_with_lab
from lab.machine.machine import Machine, describe
from lab.machine.process import core_count, memory_limit


class ProbeError(RuntimeError):
    """The probing child failed; the text says why."""


def read_machine() -> Machine:
    """Probe this machine in this process; imports MLX, and on CUDA creates a context."""
    import mlx.core as mx

    backend = next((b for b in ("metal", "cuda") if _is_available(mx, b)), "cpu")
    device_info = getattr(mx, "device_info", None) or mx.metal.device_info
    return describe(
        backend,
        device_info(),
        memory=memory_limit(),
        cores=core_count(),
        system=platform.system(),
        architecture=platform.machine(),
    )


def _is_available(mx: Any, backend: str) -> bool:
    module = getattr(mx, backend, None)
    return module is not None and bool(module.is_available())


@functools.lru_cache(maxsize=1)
def start_probe() -> subprocess.Popen[str]:
    """Start the probing child, so that :func:`probe_machine` waits less; later calls return it."""
    return subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-m",
            "lab.machine",
        ],  # -P: nothing from the working folder
        env=environment_with_lab(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


_known: list[Machine] = []


def know_machine(machine: Machine) -> None:
    """Use the result of another process on the same machine: :func:`probe_machine` returns it."""
    _known[:] = [machine]


def probe_machine() -> Machine:
    """Probe this machine in a child process, once for each process.

    Raises:
        ProbeError: MLX is missing or cannot be loaded, or the child took more than 60 s.
    """
    answer = _known[0] if _known else _answer()
    if isinstance(answer, ProbeError):
        raise answer
    return answer


@functools.lru_cache(maxsize=1)
def _answer() -> Machine | ProbeError:
    child = start_probe()
    try:
        out, err = child.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        child.kill()
        return ProbeError("the look at this machine took more than 60 s")
    return parse_answer(out, err)


def parse_answer(out: str, err: str) -> Machine | ProbeError:
    """Parse what a probe printed: a machine, or an error with the last line of its stderr."""
    try:
        return Machine(**json.loads(out))
    except (ValueError, TypeError):
        reason = (err.strip().splitlines() or ["no answer"])[-1]
        return ProbeError(f"MLX does not load in {sys.executable}: {reason}")
