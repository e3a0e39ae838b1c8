"""Which hardware profile a memory holds, by the names of the files in ``conf/hardware``."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

HARDWARE = Path(__file__).resolve().parents[2] / "conf" / "hardware"

# A machine sold with 16 GB shows the process a little less.
USABLE_SHARE = 0.9


@cache
def profile_sizes() -> dict[str, int]:
    """Memory in GB of each profile, from the names alone: this is asked at every start."""
    named = (re.fullmatch(r".*_(\d+)gb", path.stem) for path in HARDWARE.glob("*.yaml"))
    return {match[0]: int(match[1]) for match in named if match}


def fitting_profile(memory_gb: float, *, on_cuda: bool) -> str:
    """The largest profile that a memory holds, or the smallest there is.

    A profile for CUDA is for nothing else, and goes before the others there: it trains in bf16.
    """
    sizes = {
        name: size
        for name, size in profile_sizes().items()
        if on_cuda or not name.startswith("cuda")
    }
    fitting = [name for name in sizes if sizes[name] * USABLE_SHARE <= memory_gb]
    best = [name for name in fitting if name.startswith("cuda")] or fitting
    return max(best, key=sizes.__getitem__, default=min(sizes, key=sizes.__getitem__))
