"""Memory faults: growth put into a run on purpose, each by the mechanism that users meet.

A fault acts between a step's evaluation and its memory reading. It takes real tokens, activations
and parameters of the step, and changes nothing that the loss depends on: neither the model nor the
optimizer, the random state or the data. What each one is, by kind and remedy: ``truth.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

from lab.config.keys import Fault as Settings
from lab.config.keys import Growth
from lab.config.units import MB
from lab.data.batches import Batch, Batches


@dataclass(frozen=True, slots=True)
class Moment:
    """What a fault sees of a step that has been evaluated.

    Attributes:
        step: from 1.
        batches: the step's micro-batches.
        validation: the micro-batches of the validation loss taken at this step; empty: none was.
        data: where batches come from; it outlives the session.
    """

    step: int
    model: nn.Module
    optimizer: optim.Optimizer
    batches: Sequence[Batch]
    validation: Sequence[Batch]
    data: Batches


class Fault(ABC):
    """A growth mode. From its first step on it lets memory grow by so many bytes a step.

    A unit that is larger than that is taken ahead and paid off: the rate holds on average, and the
    first step acts whatever the rate.
    """

    def __init__(self, name: str, growth: Growth) -> None:
        self.name, self.growth = name, growth
        self._owed = 0.0

    def after_step(self, moment: Moment) -> bool:
        """Grow by what is owed; whether the fault acted."""
        if moment.step < self.growth.start_step:
            return False
        self._owed += self.growth.mb_per_step * MB
        if self._owed <= 0 or not self.is_due(moment):
            return False
        while self._owed > 0:
            grown = self.grow(moment, self._owed)
            if not grown:  # the mechanism gives no more at this step
                self._owed = 0.0
            self._owed -= grown
        return True

    def is_due(self, moment: Moment) -> bool:  # noqa: ARG002
        """Whether the mechanism can act after this step."""
        return True

    @abstractmethod
    def grow(self, moment: Moment, wanted: float) -> float:
        """Hold about ``wanted`` bytes more, or a part or the smallest unit; bytes that it was."""


def build_faults(settings: Settings) -> list[Fault]:
    """The growth modes of a run, for one session."""
    return [_build(name, growth) for name, growth in settings.growing.items()]


def _build(name: str, growth: Growth) -> Fault:
    module = import_module(f"lab.faults.{name}")  # only those that a run has
    return getattr(module, "".join(map(str.capitalize, name.split("_"))))(name, growth)


def array_of(buffer: memoryview) -> mx.array:
    """A copy of a batch's host buffer, of its dtype and shape."""
    return mx.array(buffer)  # type: ignore[arg-type]  # any buffer will do


def predictions(model: nn.Module, batch: Batch, wanted: float) -> tuple[mx.array, mx.array]:
    """Logits of a batch as a step computes them, evaluated, and the tokens that followed.

    Without dropout, so that the random state stays as it is.

    Arguments:
        wanted: bytes of logits; at most those of the whole batch are returned.

    Returns:
        logits (n, V) at the first n positions that count in the loss, and targets (n,).
    """
    was_training = model.training
    model.eval()
    tokens, rows = array_of(batch.inputs), array_of(batch.rows)
    one = model(tokens[:1, :1])  # lazy: only its shape is used
    count = min(max(round(wanted / (one.shape[-1] * one.dtype.size)), 1), len(batch.rows))
    sequences = max(batch.rows[:count]) // tokens.shape[1] + 1
    logits = model(tokens[:sequences])
    model.train(was_training)
    kept = logits.reshape(-1, logits.shape[-1])[rows[:count]]  # a gather, thus a copy
    mx.eval(kept)
    return kept, array_of(batch.targets)[:count]
