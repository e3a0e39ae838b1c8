"""Activations in a list on the trainer, kept for a plot or a callback that nobody looks at.

The list lies on an object of the session, so everything is freed with the session.
"""

from __future__ import annotations

import mlx.core as mx

from lab.config.keys import Growth
from lab.faults.fault import Fault, Moment, predictions


class TrainerList(Fault):
    """Holds logits in ``history``."""

    def __init__(self, name: str, growth: Growth) -> None:
        super().__init__(name, growth)
        self.history: list[mx.array] = []

    def grow(self, moment: Moment, wanted: float) -> float:
        self.history.append(predictions(moment.model, moment.batches[0], wanted)[0])
        return self.history[-1].nbytes
