"""Validation that keeps its graph: its losses are collected as arrays and read at the end.

A loss that nobody reads holds the logits it is computed from. Memory grows only where a validation
is made, by what is owed since the last one. ``fault=validation_graph`` validates every two steps.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from lab.config.keys import Growth
from lab.faults.fault import Fault, Moment, predictions


class ValidationGraph(Fault):
    """Holds logits through ``losses``, lazy arrays."""

    def __init__(self, name: str, growth: Growth) -> None:
        super().__init__(name, growth)
        self.losses: list[mx.array] = []

    def is_due(self, moment: Moment) -> bool:
        return len(moment.validation) > 0

    def grow(self, moment: Moment, wanted: float) -> float:
        logits, targets = predictions(moment.model, moment.validation[0], wanted)
        self.losses.append(nn.losses.cross_entropy(logits, targets, reduction="mean"))
        return logits.nbytes
