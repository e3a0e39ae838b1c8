"""Hardware profiles: the YAML files of ``conf/hardware``, and the one that fits a machine."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lab.machine.hardware import fitting_profile, profile_sizes
from lab.machine.machine import Machine

CONF = Path(__file__).resolve().parents[2] / "conf"


@cache
def profiles() -> dict[str, dict[str, Any]]:
    """The ``hardware`` mapping of each profile's YAML, as it stands there."""
    files = [(name, CONF / "hardware" / f"{name}.yaml") for name in profile_sizes()]
    return {n: yaml.safe_load(f.read_text(encoding="utf-8"))["hardware"] for n, f in files}


def detected_profile(machine: Machine) -> str:
    """The largest profile that the machine's memory holds, or the smallest there is."""
    return fitting_profile(machine.memory_gb, on_cuda=machine.backend == "cuda")
