"""``mx.compile`` and a Python number that changes at each call: a learning rate, a position.

A Python number is a part of the signature, an array is not: ``mx.array(rate)`` would be traced
once. Each value adds a trace to the function's cache for good.
"""

from __future__ import annotations

import mlx.core as mx

from lab.config.keys import Growth
from lab.faults.compiled import TOKENS, TRACE_BYTES, by_token
from lab.faults.fault import Fault, Moment, array_of


class CompileConstant(Fault):
    """Calls its compiled function with a number that decays."""

    def __init__(self, name: str, growth: Growth) -> None:
        super().__init__(name, growth)
        self.function = mx.compile(by_token)
        self._calls = 0

    def grow(self, moment: Moment, wanted: float) -> float:  # noqa: ARG002
        self._calls += 1
        tokens = array_of(moment.batches[0].inputs).reshape(-1)
        self.function(mx.take(tokens, mx.arange(TOKENS) % tokens.size), 1.0 / self._calls)
        return TRACE_BYTES
