"""What this machine has, asked from a process that must not import MLX itself.

The process that composes and supervises a run asks a short-lived child (:func:`probe_machine`),
which is ``python -m lab.machine`` and the only one that imports MLX to look.
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
    """The child that looks at the machine failed; the text says how."""


def read_machine() -> Machine:
    """Look at this machine in this process; imports MLX, and on CUDA makes a context."""
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
    """Start the child that looks at the machine, for :func:`probe_machine` to wait for later."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "lab.machine"],  # -P: no file of the user's folder is imported
        env=environment_with_lab(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


_known: list[Machine] = []


def know_machine(machine: Machine) -> None:
    """Take for this process what another one has asked on the same machine."""
    _known[:] = [machine]


def probe_machine() -> Machine:
    """What this machine has, as a child process found it; asked once.

    Raises:
        ProbeError: MLX is missing or cannot be loaded, or the child gave no answer in a minute.
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
    """The machine that a probe printed, or what its last line of complaint was."""
    try:
        return Machine(**json.loads(out))
    except (ValueError, TypeError):
        reason = (err.strip().splitlines() or ["no answer"])[-1]
        return ProbeError(f"MLX does not load in {sys.executable}: {reason}")
