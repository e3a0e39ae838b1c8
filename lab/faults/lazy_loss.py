"""A running loss that is never evaluated.

``running + loss`` is one more node of a graph; only evaluating it would free what it was computed
from. Each step's node holds that step's logits, and the sum holds all nodes before. This happens
where the loop evaluates the model and the optimizer, but not the loss that it sums up.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from lab.config.keys import Growth
from lab.faults.fault import Fault, Moment, predictions


class LazyLoss(Fault):
    """Holds logits through ``running``, a lazy sum of losses."""

    def __init__(self, name: str, growth: Growth) -> None:
        super().__init__(name, growth)
        self.running = mx.array(0.0)

    def grow(self, moment: Moment, wanted: float) -> float:
        logits, targets = predictions(moment.model, moment.batches[0], wanted)
        self.running = self.running + nn.losses.cross_entropy(logits, targets, reduction="sum")
        return logits.nbytes
