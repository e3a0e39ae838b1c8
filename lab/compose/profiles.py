"""Hardware profiles: the YAML files of ``conf/hardware``, and the one that fits a machine."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lab.machine.machine import Machine

CONF = Path(__file__).resolve().parents[2] / "conf"

# A machine sold with 16 GB shows the process a little less.
USABLE_SHARE = 0.9


@cache
def profile_sizes() -> dict[str, int]:
    """Memory in GB of each profile, from the names alone: this is asked at every start."""
    named = (re.fullmatch(r".*_(\d+)gb", p.stem) for p in (CONF / "hardware").glob("*.yaml"))
    return {match[0]: int(match[1]) for match in named if match}


@cache
def profiles() -> dict[str, dict[str, Any]]:
    """The ``hardware`` mapping of each profile's YAML, as it stands there."""
    files = [(name, CONF / "hardware" / f"{name}.yaml") for name in profile_sizes()]
    return {n: yaml.safe_load(f.read_text(encoding="utf-8"))["hardware"] for n, f in files}


def detected_profile(machine: Machine) -> str:
    """The largest profile that the machine's memory holds, or the smallest there is.

    A profile for CUDA is for nothing else, and goes before the others there: it trains in bf16.
    """
    sizes = {
        name: size
        for name, size in profile_sizes().items()
        if machine.backend == "cuda" or not name.startswith("cuda")
    }
    fitting = [name for name in sizes if sizes[name] * USABLE_SHARE <= machine.memory_gb]
    best = [name for name in fitting if name.startswith("cuda")] or fitting
    return max(best, key=sizes.__getitem__, default=min(sizes, key=sizes.__getitem__))
