"""Replayed steps: which of their events are stored once only, and how far a loss may differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from lab.config.keys import Config

NONDETERMINISTIC_RTOL = 0.02  # between the losses of a step with train.deterministic=false

# Events of a step itself: the worker sends them again when it executes the step again.
REPEATED_EVENTS = {"reload", "reload_ineffective", "reload_skipped", "cache_clear", "nonfinite"}


def repeated_events(events: Iterable[Mapping[str, Any]]) -> set[tuple[str, int]]:
    """Name and step of the events that a replay would send again."""
    return {(e["event"], e["step"]) for e in events if e["event"] in REPEATED_EVENTS}


def loss_rtol(config: Config, device: str) -> float:
    """The relative tolerance between the losses of a step and its replay; 0 is bit for bit.

    Arguments:
        device: the worker's MLX device, e.g. ``Device(gpu, 0)``.
    """
    # mlx-lm trains MLX's own embeddings, whose gradient differs each time on a GPU.
    varies = config.trainer == "mlx_lm" and config.adapter.kind == "full" and "gpu" in device
    return 0.0 if config.train.deterministic and not varies else NONDETERMINISTIC_RTOL


def same_loss(first: float | None, replayed: float | None, *, rtol: float) -> bool:
    """Whether a replayed step gave the loss of its first execution.

    Arguments:
        first: as it is on file, where a loss that is not finite is null.
        replayed: as the worker sends it.
    """
    if replayed is not None and not math.isfinite(replayed):
        replayed = None
    if not rtol or first is None or replayed is None:
        return first == replayed
    return math.isclose(first, replayed, rel_tol=rtol)
