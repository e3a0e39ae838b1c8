"""Gradients that come out the same bit for bit each time, on a GPU too.

A GPU adds up the gradient rows of a token that occurs several times in whichever order its threads
come, so the last bits of an embedding's gradient differ from run to run. Attention has the same
fault on CUDA; there the supervisor's environment for the worker chooses another kernel.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from lab.config.schema import ConfigError
from lab.train.patch import replace_call


@mx.custom_function
def lookup(weight: mx.array, ids: mx.array) -> mx.array:
    """Rows ``weight[ids]`` (..., D) of ``weight`` (V, D), with a repeatable gradient."""
    return weight[ids]


@lookup.vjp
def _lookup_vjp(primals: tuple, cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
    weight, ids = primals
    flat = ids.reshape(-1)
    order = mx.argsort(flat)
    tokens = flat[order]
    rows = cotangent.reshape(-1, weight.shape[-1])[order].astype(mx.float32)
    totals = _sum_of_each_run(tokens, rows)
    # Each token's total stands in the first of its rows; adding zeros from the others is exact in
    # any order.
    first = mx.concatenate([mx.array([True]), tokens[1:] != tokens[:-1]])
    kept = mx.where(first[:, None], totals, 0).astype(weight.dtype)
    return mx.zeros_like(weight).at[tokens].add(kept), mx.zeros_like(ids)


def _sum_of_each_run(tokens: mx.array, rows: mx.array) -> mx.array:
    """Sums over runs of equal ``tokens`` (T,) in ``rows`` (T, D), each in its run's first row.

    Doubling distances: after the pass with distance d, a row holds the sum of the next 2 d rows of
    its run. The order of additions depends on the tokens alone.
    """
    distance, count = 1, len(tokens)
    while distance < count:
        same = (tokens[distance:] == tokens[:-distance])[:, None]
        rows = rows + mx.pad(mx.where(same, rows[distance:], 0), [(0, distance), (0, 0)])
        distance *= 2
    return rows


def make_embeddings_repeatable(model: nn.Module) -> None:
    """Give this model's trained embeddings a repeatable gradient.

    Raises:
        ConfigError: an adapter sits on an embedding, whose gradient cannot be made so.
    """

    def call(_: Callable, module: nn.Module, ids: mx.array) -> mx.array:
        return lookup(module["weight"], ids)  # type: ignore[return-value]

    for path, module in model.named_modules():
        if type(module).__name__ in ("LoRAEmbedding", "DoRAEmbedding"):
            raise ConfigError(
                "adapter.targets",
                path.rpartition(".")[2],
                "has no repeatable gradient on a GPU: leave it out, or train.deterministic=false",
            )
        if isinstance(module, nn.Embedding) and module.trainable_parameters():
            replace_call(module, call)
