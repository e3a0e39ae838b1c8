"""``mx.compile`` and a new input shape at each call: sequences that are not padded.

Each length is a signature of its own and adds a trace to the function's cache for good.
"""

from __future__ import annotations

import mlx.core as mx

from lab.config.keys import Growth
from lab.faults.compiled import TOKENS, TRACE_BYTES, by_token
from lab.faults.fault import Fault, Moment, array_of


class CompileShapes(Fault):
    """Calls its compiled function with one token more each time."""

    def __init__(self, name: str, growth: Growth) -> None:
        super().__init__(name, growth)
        self.function = mx.compile(by_token)
        self._length = TOKENS

    def grow(self, moment: Moment, wanted: float) -> float:  # noqa: ARG002
        self._length += 1
        tokens = array_of(moment.batches[0].inputs).reshape(-1)
        self.function(mx.take(tokens, mx.arange(self._length) % tokens.size), 1.0)
        return TRACE_BYTES
