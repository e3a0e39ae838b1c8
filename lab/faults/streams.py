"""A new stream for each evaluation. MLX never ends one, and on the CPU each has a thread.

A thread's stack and what the heap keeps for it stay with the process: only a new one starts without
them. No more than ``MOST`` are made in a process, since a system has only so many threads.
"""

from __future__ import annotations

import mlx.core as mx

from lab.faults.fault import Fault, Moment, array_of

MOST = 8192
STREAM_BYTES = 12 * 2**10  # of one stream that was used, measured on Linux


class Streams(Fault):
    """Sums the step's token weights on a stream that is used only once."""

    made = 0

    def grow(self, moment: Moment, wanted: float) -> float:  # noqa: ARG002
        if Streams.made >= MOST:
            return 0
        Streams.made += 1
        weights = array_of(moment.batches[0].weights)
        with mx.stream(mx.new_stream(mx.default_device())):
            mx.eval(weights.sum())
        return STREAM_BYTES
