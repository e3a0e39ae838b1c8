"""What the two faults of ``mx.compile`` share: a function whose every trace is kept.

The compile cache has an entry for each signature of a function's arguments and none is ever
dropped before the function itself. An entry is a graph on the C++ heap, which MLX's counters do not
know.
"""

from __future__ import annotations

import mlx.core as mx

TOKENS = 64
TRACE_BYTES = 51 * 2**10  # of one trace of ``by_token``, measured on Linux


def by_token(tokens: mx.array, scale: float) -> mx.array:
    """Token by token, as a recurrence does it: the loop is unrolled in the trace.

    Arguments:
        tokens: (n,), n at least ``TOKENS``.
        scale: a Python float, and so a part of the signature.
    """
    parts = mx.split(tokens, list(range(1, TOKENS)))
    return mx.concatenate([part if scale else -part for part in reversed(parts)])
