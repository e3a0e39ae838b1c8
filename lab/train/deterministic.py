"""What is not deterministic on a GPU: embedding gradients are made so, experts are refused.

A GPU scatter-add sums the gradient rows of a repeated token in whichever order its threads run, so
the last bits of an embedding's gradient differ from run to run: here a segmented sum takes its
place. Attention's backward pass has the same fault on CUDA; there the worker's environment selects
another kernel. The tokens of a mixture of experts are gathered, and their gradients scattered back
with atomic additions; nothing takes the place of that.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from lab.config.keys import Train
from lab.config.schema import ConfigError
from lab.train.patch import override_call


@mx.custom_function
def deterministic_embedding(weight: mx.array, ids: mx.array) -> mx.array:
    """Rows ``weight[ids]`` (..., D) of ``weight`` (V, D), with a deterministic gradient."""
    return weight[ids]


@deterministic_embedding.vjp
def _embedding_vjp(primals: tuple, cotangent: mx.array, _: mx.array) -> tuple[mx.array, mx.array]:
    weight, ids = primals
    flat = ids.reshape(-1)
    order = mx.argsort(flat)
    tokens = flat[order]
    rows = cotangent.reshape(-1, weight.shape[-1])[order].astype(mx.float32)
    totals = _segmented_sum(tokens, rows)
    # Each token's total is in the first row of its segment. The scatter-add below adds one total
    # and zeros, which is exact in any order.
    first = mx.concatenate([mx.array([True]), tokens[1:] != tokens[:-1]])
    kept = mx.where(first[:, None], totals, 0).astype(weight.dtype)
    return mx.zeros_like(weight).at[tokens].add(kept), mx.zeros_like(ids)


def _segmented_sum(tokens: mx.array, rows: mx.array) -> mx.array:
    """Segmented sum by doubling; the order of additions depends on the tokens alone.

    After the pass with distance d, a row holds the sum of the next 2 d rows of its segment.

    Arguments:
        tokens: (T,), sorted; a segment is a run of equal ones.
        rows: (T, D).

    Returns:
        (T, D), each segment's sum in its first row; the other rows hold partial sums.
    """
    distance, count = 1, len(tokens)
    while distance < count:
        same = (tokens[distance:] == tokens[:-distance])[:, None]
        rows = rows + mx.pad(mx.where(same, rows[distance:], 0), [(0, distance), (0, 0)])
        distance *= 2
    return rows


def make_embedding_gradients_deterministic(model: nn.Module) -> None:
    """Make the gradient of this model's trained embeddings deterministic.

    Raises:
        ConfigError: an adapter is on an embedding; its gradient cannot be made deterministic.
    """

    def call(_: Callable, module: nn.Module, ids: mx.array) -> mx.array:
        return deterministic_embedding(module["weight"], ids)  # type: ignore[return-value]

    for path, module in model.named_modules():
        if type(module).__name__ in ("LoRAEmbedding", "DoRAEmbedding"):
            raise ConfigError(
                "adapter.targets",
                path.rpartition(".")[2],
                "has no repeatable gradient on a GPU: leave it out, or train.deterministic=false",
            )
        if isinstance(module, nn.Embedding) and module.trainable_parameters():
            override_call(module, call)


def check_experts(model: nn.Module, train: Train, *, on_gpu: bool) -> None:
    """Check that the experts of a model, if it has any, can be trained as asked for.

    Raises:
        ConfigError: on a GPU they are not repeatable, and ``train.deterministic`` asks for it; on a
            CPU MLX computes those that are not quantised in float32 only.
    """
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

    modules = model.modules()
    plain = any(isinstance(module, SwitchLinear) for module in modules)
    quantized = any(isinstance(module, QuantizedSwitchLinear) for module in modules)
    if on_gpu and train.deterministic and (plain or quantized):
        raise ConfigError(
            "train.deterministic",
            train.deterministic,
            "is not to be had on a GPU with a model of experts, whose gradients are summed in an "
            "order of their own each time: set train.deterministic=false",
        )
    if not on_gpu and plain and train.dtype != "float32":
        raise ConfigError(
            "train.dtype",
            train.dtype,
            "must be float32 for a model of experts on a CPU, or choose adapter=qlora",
        )
