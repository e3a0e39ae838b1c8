"""Arrays in reference cycles, where Python's automatic collection is off, as fast loops have it.

A record knows its parts and each part its record, so neither's count ever falls to zero: only the
collector frees them and the logits they hold. It would not know either how large an array is: with
the collection on, a cycle that lived long enough waits for the next full one.
"""

from __future__ import annotations

import gc

import mlx.core as mx

from lab.faults.fault import Fault, Moment, predictions


class Record:
    """A step's logits and a view of them that knows where it comes from."""

    def __init__(self, logits: mx.array) -> None:
        self.logits = logits
        self.view = View(self)


class View:
    def __init__(self, record: Record) -> None:
        self.record = record


class Cycles(Fault):
    """Drops a ``Record`` a step, which nothing holds but itself."""

    def grow(self, moment: Moment, wanted: float) -> float:
        gc.disable()
        return Record(predictions(moment.model, moment.batches[0], wanted)[0]).logits.nbytes
