"""Batches of ever new lengths beside a large cache limit.

MLX keeps freed buffers for requests of nearly their size. A length that it has not had before finds
none and leaves one more behind, up to ``memory.cache_limit_gb``. No array is alive in them: peak
and active memory stay as they are. ``fault=ragged_cache`` sets a limit as high as on Metal and
``memory.cache_clear_interval=0``, since the lab otherwise clears the cache every ten steps.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from lab.config.keys import Growth
from lab.faults.fault import Fault, Moment, array_of

STRIDE = 3 * 2**14  # bytes from one length to the next: nearer ones share a buffer
TRIES = 64


class RaggedCache(Fault):
    """Leaves buffers of embedded tokens in MLX's cache, longer by some tokens each time."""

    def __init__(self, name: str, growth: Growth) -> None:
        super().__init__(name, growth)
        self._length = 0

    def grow(self, moment: Moment, wanted: float) -> float:  # noqa: ARG002
        tokens = array_of(moment.batches[0].inputs).reshape(-1)
        embed = _embedding(moment.model)
        width = embed(tokens[:1])
        for _ in range(TRIES):  # a length whose buffer another one left is no growth
            self._length += -(-STRIDE // width.nbytes)
            sequence = mx.take(tokens, mx.arange(self._length) % tokens.size)
            mx.eval(sequence)
            before = mx.get_cache_memory()
            mx.eval(embed(sequence))
            grown = mx.get_cache_memory() - before
            if grown > 0:
                return grown
        return 0


def _embedding(model: nn.Module) -> nn.Module:
    kinds = (nn.Embedding, nn.QuantizedEmbedding)
    return next(module for module in model.modules() if isinstance(module, kinds))
