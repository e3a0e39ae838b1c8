"""Replayed steps: which of their events are stored once only, and how far a loss may differ.

And the remedies of a run that is made again: ``reload=adaptive`` decides by the clock, so a
reproduction takes them from the run's events.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from lab.config.keys import Config
from lab.protocol import RUNGS, Rung

NONDETERMINISTIC_RTOL = 0.02  # between the losses of a step with train.deterministic=false

# Events of a step itself: the worker sends them again when it executes the step again.
REPEATED_EVENTS = {
    *("reload", "reload_ineffective", "reload_skipped", "remedy", "cache_clear", "nonfinite"),
    "census",
}


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


@dataclass(frozen=True)
class Remedies:
    """The remedies to take in place of deciding on them.

    Attributes:
        until: the last step that they are known for; after it the worker decides.
        by_step: what to take after a step.
    """

    until: int
    by_step: Mapping[int, Rung]

    @classmethod
    def of_run(cls, events: Iterable[Mapping[str, Any]], *, until: int) -> Self:
        """Those of a run's events, which anyone may have written: what is no remedy is left out."""
        known: dict[int, Rung] = {}
        for event in events:
            step, rung = event.get("step"), _rung(event)
            if type(step) is int and 0 < step <= until and rung is not None:
                known[step] = rung
        return cls(until, known)

    @classmethod
    def of_reproduction(cls, started: Mapping[str, Any]) -> Self | None:
        """As :meth:`event` wrote them into ``run_started``; None in any other run."""
        saved = started.get("replays")
        if not isinstance(saved, dict) or type(saved.get("until")) is not int:
            return None
        named = saved.get("remedies")
        events = [
            {"event": "remedy", "step": pair[0], "remedy": pair[1]}
            for pair in (named if isinstance(named, list) else [])
            if isinstance(pair, list) and len(pair) == 2
        ]
        return cls.of_run(events, until=saved["until"])

    def event(self) -> dict[str, object]:
        """The field of ``run_started``, so that a resumed reproduction goes on with them."""
        pairs = [list(pair) for pair in self.by_step.items()]
        return {"replays": {"until": self.until, "remedies": pairs}}


def _rung(event: Mapping[str, Any]) -> Rung | None:
    name = event.get("remedy") if event.get("event") == "remedy" else None
    if event.get("event") == "reload" and event.get("reason") == "adaptive":
        name = f"reload_{event.get('method')}"
    return next((rung for rung in RUNGS if rung == name), None)
