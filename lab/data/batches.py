"""Micro-batches as a pure function of a seed and an index: nothing to save, nothing to restore."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# Batches that are sorted together: many pad little, but sorting a whole epoch would make the same
# batches in each.
CHUNK = 256

Sample = tuple[Sequence[int], int]  # token ids, and how many of the first never count in the loss


@dataclass(frozen=True)
class Batch:
    """One micro-batch on the host; ``B`` sequences padded to ``L``, ``N`` counted tokens.

    Attributes:
        inputs: int32 (B, L), token ids padded on the right with 0; a row that is all padding fills
            the last batch of an epoch.
        rows: int32 (N,), the flattened positions ``b * L + i`` whose next token counts.
        targets: int32 (N,), that next token.
        weights: float32 (N,), 1 for a real one, 0 for the padding at the end of ``rows``.
        num_tokens: real targets; may be 0, ``N`` is never.
        padded_cells: cells of ``inputs`` that hold padding.
        truncated: samples that were longer than the maximum.
        empty: samples without a token that counts.
    """

    inputs: np.ndarray
    rows: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    num_tokens: int
    padded_cells: int
    truncated: int
    empty: int


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How samples become batches; lengths in tokens."""

    batch_size: int
    accumulation: int
    max_length: int
    pad_multiple: int


class Batches:
    """Every sample once an epoch, batches of like length, in an order drawn for each epoch.

    Args:
        sizes: (n,), a length of each sample in any unit, the key to sort by.
        read: the sample at a position in ``sizes``.
        shape: how samples become batches.
        seed: draws the order; ``None`` sorts all samples and takes the same order in every epoch,
            spread so that the first few batches hold short and long samples alike.
    """

    def __init__(
        self, sizes: np.ndarray, read: Callable[[int], Sample], shape: Shape, seed: int | None
    ) -> None:
        self._sizes, self._read, self._shape, self._seed = sizes, read, shape, seed
        self._plan: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        """Micro-batches an epoch, the last incomplete one included."""
        return _round_up(len(self._sizes), self._shape.batch_size) // self._shape.batch_size

    def batch(self, index: int) -> Batch:
        """Micro-batch ``index``, from 0; it goes on over epochs."""
        return collate([self._read(i) for i in self.members(index)], self._shape)

    def step(self, step: int) -> list[Batch]:
        """The micro-batches of optimizer step ``step``, from 1."""
        first = (step - 1) * self._shape.accumulation
        return [self.batch(first + i) for i in range(self._shape.accumulation)]

    def members(self, index: int) -> list[int]:
        """Positions in ``sizes`` of the samples of micro-batch ``index``."""
        epoch, place = divmod(index, len(self))
        epoch = epoch if self._seed is not None else 0
        if self._plan is None or self._plan[0] != epoch:
            self._plan = epoch, self._order(epoch)
        return [int(i) for i in self._plan[1][place] if i >= 0]

    def _order(self, epoch: int) -> np.ndarray:
        chunk = len(self) if self._seed is None else min(CHUNK, -(-len(self) // 2))
        return plan(self._sizes, self._shape.batch_size, chunk, key=(self._seed or 0, epoch))


def plan(sizes: np.ndarray, batch_size: int, chunk: int, key: tuple[int, int]) -> np.ndarray:
    """The samples of each batch of an epoch, int32 (batches, batch_size), -1 where one is missing.

    Draws an order, sorts each run of ``chunk`` batches of it by size, cuts it into batches, and
    draws the order of the batches.
    """
    # Raw words of a bit generator and a stable sort: numpy keeps both the same over its versions.
    words = np.random.Philox(key=np.array(key, np.uint64))
    count = len(sizes)
    order = np.argsort(words.random_raw(count), kind="stable").astype(np.int32)
    chunks = np.arange(count, dtype=np.int32) // (chunk * batch_size)
    order = order[np.lexsort((sizes[order], chunks))]
    order = np.append(order, np.full(-count % batch_size, -1, np.int32))
    batches = order.reshape(-1, batch_size)
    return batches[np.argsort(words.random_raw(len(batches)), kind="stable")]


def collate(samples: Sequence[Sample], shape: Shape) -> Batch:
    """Pad samples into one batch: inputs are all tokens but the last, targets all but the first."""
    cut = [np.array(ids[: shape.max_length], np.int32) for ids, _ in samples]
    lengths = [max(len(ids) - 1, 0) for ids in cut]
    width = min(_round_up(max(lengths, default=0), shape.pad_multiple), shape.max_length)
    inputs = np.zeros((shape.batch_size, width), np.int32)
    rows, targets = [], []
    for b, (ids, (_, prompt)) in enumerate(zip(cut, samples, strict=True)):
        inputs[b, : lengths[b]] = ids[:-1]
        first = min(max(prompt, 1), len(ids))
        targets.append(ids[first:])
        rows.append(np.arange(first, len(ids), dtype=np.int32) + (b * width - 1))
    count = sum(map(len, targets))
    padding = np.zeros(_round_up(count, shape.pad_multiple) - count, np.int32)
    return Batch(
        inputs=inputs,
        rows=np.concatenate([*rows, padding]),
        targets=np.concatenate([*targets, padding]),
        weights=(np.arange(count + len(padding)) < count).astype(np.float32),
        num_tokens=count,
        padded_cells=inputs.size - sum(lengths),
        truncated=sum(len(ids) > shape.max_length for ids, _ in samples),
        empty=sum(len(t) == 0 for t in targets),
    )


def _round_up(count: int, multiple: int) -> int:
    return max(-(-count // multiple), 1) * multiple
