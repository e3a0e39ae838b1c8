"""A prefetch queue without a bound: batches are made faster than the loop takes them.

``queue.Queue()`` has no size by default, so a producer never waits. What it is ahead lies in the
queue as MLX arrays. Here it is called once a step, not from a thread of its own, so that the rate
is exact.
"""

from __future__ import annotations

from queue import Queue

import mlx.core as mx

from lab.config.keys import Growth
from lab.data.batches import Batch
from lab.faults.fault import Fault, Moment, array_of


class Prefetch(Fault):
    """Holds batches in ``queue``."""

    def __init__(self, name: str, growth: Growth) -> None:
        super().__init__(name, growth)
        self.queue: Queue[tuple[mx.array, ...]] = Queue()

    def grow(self, moment: Moment, wanted: float) -> float:
        taken = 0 if self.queue.empty() else _size(self.queue.get())
        made = 0
        while made < taken + wanted:
            ready = _arrays(moment.batches[0])
            self.queue.put(ready)
            made += _size(ready)
        return made - taken


def _arrays(batch: Batch) -> tuple[mx.array, ...]:
    return tuple(map(array_of, (batch.inputs, batch.rows, batch.targets, batch.weights)))


def _size(arrays: tuple[mx.array, ...]) -> int:
    return sum(array.nbytes for array in arrays)
