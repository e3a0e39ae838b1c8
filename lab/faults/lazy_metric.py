"""A metric that is never evaluated: tokens predicted right, counted with MLX and read at the end.

The count is one number, but as long as nobody reads it, it is a graph that holds the logits of
every step that it counted.
"""

from __future__ import annotations

import mlx.core as mx

from lab.config.keys import Growth
from lab.faults.fault import Fault, Moment, predictions


class LazyMetric(Fault):
    """Holds logits through ``correct``, a lazy count."""

    def __init__(self, name: str, growth: Growth) -> None:
        super().__init__(name, growth)
        self.correct = mx.array(0)

    def grow(self, moment: Moment, wanted: float) -> float:
        logits, targets = predictions(moment.model, moment.batches[0], wanted)
        self.correct = self.correct + (logits.argmax(axis=-1) == targets).sum()
        return logits.nbytes
