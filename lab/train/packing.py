"""Several samples in a row: a model whose attention stays within each, positions from 0 in each.

The model is called as for generation, with a cache of each layer, since that is what every model of
mlx-lm takes its mask and its offset from. This one keeps nothing: its mask lets a token see those
before it in its own sample, and rotary positions are those within the sample.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn

from lab.config.schema import ConfigError
from lab.train.model_files import layers_of
from lab.train.patch import calls_restored, override_call

# What the logits of a packed sample may differ by from those alone, as a share of the largest.
TOLERANCES = {mx.float32: 1e-3, mx.float16: 2e-2, mx.bfloat16: 1e-1}

LEAST_ROTATED = 32  # values of a sequence, for CUDA


class PackedRows:
    """Runs a model on packed rows; its rotary embeddings are overridden, to do what they did else.

    Arguments:
        model: any of mlx-lm's, with or without adapters.
    """

    def __init__(self, model: nn.Module) -> None:
        self._positions: mx.array | None = None
        for module in model.modules():
            if _is_rotary(module):
                override_call(module, self._rotate)

    @contextmanager
    def cache(self, model: nn.Module, positions: mx.array) -> Iterator[list[_Segments]]:
        """The ``cache`` that the model is called with.

        Arguments:
            positions: int32 (B, L), of each token in its sample; 0 begins a sample.
        """
        self._positions = positions
        try:
            yield [_Segments(positions)] * len(layers_of(model))
        finally:
            self._positions = None

    def _rotate(self, call: Callable, module: nn.Module, x: mx.array, **how: object) -> mx.array:
        """Rotate (B, H, L, D) by the positions of (B, L), each token as a sequence of its own."""
        if self._positions is None:
            return call(module, x, **how)
        batch, heads, length, size = x.shape
        tokens = x.transpose(0, 2, 1, 3).reshape(batch * length, heads, 1, size)
        # MLX's CUDA kernel puts 1,024 pairs of values in a block, of at most 64 sequences. Where a
        # token has few, zeros follow it: one token a sequence would make more of them.
        values = getattr(module, "dims", size)
        zeros = LEAST_ROTATED // 2 ** (values.bit_length() - 1) - 1  # blocks are powers of two
        if zeros > 0:
            tokens = mx.pad(tokens, [(0, 0), (0, 0), (0, zeros), (0, 0)])
        rotated = call(module, tokens, offset=self._positions.reshape(-1))[:, :, :1]
        return rotated.reshape(batch, length, heads, size).transpose(0, 2, 1, 3)


class _Segments:
    """What a layer takes for its cache: it holds nothing, and masks what is of another sample."""

    offset = 0  # the rotary embeddings, which are given it, know better

    def __init__(self, positions: mx.array) -> None:
        length = positions.shape[-1]
        segments = (positions == 0).astype(mx.int32).cumsum(axis=-1)
        place = mx.arange(length)
        self._distance = place[:, None] - place[None]
        self._same = segments[:, None, :, None] == segments[:, None, None, :]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values as they are."""
        return keys, values

    def make_mask(
        self, count: int, *, return_array: bool = False, window_size: int | None = None
    ) -> mx.array:
        """Which token sees which, bool (B, 1, L, L)."""
        del count, return_array  # a mask of rows of any length, and always an array
        causal = self._distance >= 0
        if window_size is not None:
            causal = causal & (self._distance < window_size)
        return self._same & causal


def check_packs(model: nn.Module, name: object) -> None:
    """Hold the logits of two packed samples against those of each alone.

    Arguments:
        model: as it is trained; it draws no random number and stays as it was.
        name: what an error names it by.

    Raises:
        ConfigError: they differ: the model has positions or a memory that a mask does not part.
    """
    first, second = mx.arange(1, 8)[None], mx.arange(3, 9)[None]
    positions = mx.array([[*range(first.shape[1]), *range(second.shape[1])]])
    was_training = model.training
    model.eval()
    try:
        alone = mx.concatenate([model(first), model(second)], axis=1)
        packed = _logits(model, mx.concatenate([first, second], axis=1), positions)
        apart = packed is not None and _differ(packed, alone)
    finally:
        model.train(was_training)
    if packed is None or apart:
        raise ConfigError(
            "train.packing",
            True,
            f"cannot act with model={name}, whose layers see more of a row than attention and "
            "rotary positions; take train.packing=false, or train.batch_by=tokens",
        )


def _logits(model: nn.Module, inputs: mx.array, positions: mx.array) -> mx.array | None:
    """Of packed rows; None where the model cannot be called with such a cache."""
    with calls_restored(model):
        try:
            with PackedRows(model).cache(model, positions) as cache:
                return model(inputs, cache=cache)
        except (AttributeError, IndexError, TypeError, ValueError):
            return None


def _differ(packed: mx.array, alone: mx.array) -> bool:
    tolerance = TOLERANCES.get(alone.dtype, 1e-1)
    packed, alone = packed.astype(mx.float32), alone.astype(mx.float32)
    return bool((mx.abs(packed - alone).max() > tolerance * mx.abs(alone).max()).item())


def _is_rotary(module: nn.Module) -> bool:
    """Whether it takes an offset and holds no other module, as every rotary embedding does."""
    parameters = inspect.signature(type(module).__call__).parameters
    return "offset" in parameters and not module.children()
