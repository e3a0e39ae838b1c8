"""What a sweeper makes small: one figure of a run that has ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lab.config import Config


def value(config: Config, summary: Mapping[str, Any]) -> float | None:
    """The objective of a completed run; the smaller the better.

    ``throughput`` is tokens a second, negative, as long as the run's peak memory stayed within
    ``objective.memory_limit_gb``; above it the excess, positive: worse than any run within it, and
    the less so the nearer it came.

    Returns:
        None where the run has no such figure, as after a loss that was not finite.
    """
    peak_key = "peak_process_gb" if config.reload.metric == "process" else "peak_mlx_gb"
    peak = summary.get(peak_key)
    match config.objective.name:
        case "final_loss":
            found = summary.get("final_loss")
        case "overhead":
            found = summary.get("overhead_fraction")
        case "peak_memory":
            found = peak
        case _:
            limit, speed = config.objective.memory_limit_gb, summary.get("tokens_per_second")
            if peak is None or speed is None:
                return None
            found = peak / limit if peak > limit else -speed
    return found if isinstance(found, int | float) and math.isfinite(found) else None
