"""Micro-batches as a pure function of a seed and an index: nothing to save, nothing to restore."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from lab.data.permutation import Permutation

# Batches that are sorted together: many pad little, but sorting a whole epoch would make the same
# batches in each.
CHUNK = 256

Sample = tuple[Sequence[int], int]  # token ids, and how many of the first never count in the loss


@dataclass(frozen=True)
class Batch:
    """One micro-batch on the host; ``B`` sequences padded to ``L``, ``N`` counted tokens.

    The arrays are host buffers, which ``mx.array`` copies with their type and shape.

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

    inputs: memoryview
    rows: memoryview
    targets: memoryview
    weights: memoryview
    num_tokens: int
    padded_cells: int
    truncated: int
    empty: int

    @property
    def cells(self) -> int:
        """``B * L``, padding included."""
        return self.inputs.nbytes // self.inputs.itemsize


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How samples become batches; lengths in tokens."""

    batch_size: int
    accumulation: int
    max_length: int
    pad_multiple: int


class Batches:
    """Every sample once an epoch, batches of like length, in an order drawn for each epoch.

    An epoch is a drawn order of all samples. Runs of ``CHUNK`` batches of it are sorted by size,
    cut into batches, and these are drawn an order of their own. Only the current chunk is held.

    Args:
        sizes: (n,), a length of each sample in any unit, the key to sort by.
        read: the sample at a position in ``sizes``.
        shape: how samples become batches.
        seed: draws the order; ``None`` sorts all samples as one chunk and takes the same order in
            every epoch, spread so that the first few batches hold short and long samples alike.
    """

    def __init__(
        self, sizes: Sequence[int], read: Callable[[int], Sample], shape: Shape, seed: int | None
    ) -> None:
        self._sizes, self._read, self._shape, self._seed = sizes, read, shape, seed
        # At least two chunks: one would make the same batches in each epoch.
        chunks = 1 if seed is None else max(_pieces(len(self), CHUNK), 2)
        self._per_chunk = _pieces(len(self), chunks)
        self._chunk: _Chunk | None = None

    def __len__(self) -> int:
        """Micro-batches an epoch, the last incomplete one included."""
        return _pieces(len(self._sizes), self._shape.batch_size)

    def batch(self, index: int) -> Batch:
        """Micro-batch ``index``, from 0; it goes on over epochs."""
        return collate([self._read(i) for i in self.members(index)], self._shape)

    def step(self, step: int) -> list[Batch]:
        """The micro-batches of optimizer step ``step``, from 1."""
        first = (step - 1) * self._shape.accumulation
        return [self.batch(first + i) for i in range(self._shape.accumulation)]

    def members(self, index: int) -> Sequence[int]:
        """Positions in ``sizes`` of the samples of micro-batch ``index``."""
        epoch, place = divmod(index, len(self))
        number, place = divmod(place, self._per_chunk)
        key = (0, 0, number) if self._seed is None else (self._seed, epoch, number)
        if self._chunk is None or self._chunk.key != key:
            self._chunk = self._make_chunk(key)
        return self._chunk[place]

    def _make_chunk(self, key: tuple[int, int, int]) -> _Chunk:
        count, width = len(self._sizes), self._per_chunk * self._shape.batch_size
        order = range(count) if self._seed is None else Permutation(count, key[:2])
        drawn = (order[i] for i in range(count)[key[2] * width :][:width])
        return _Chunk(key, sorted(drawn, key=self._sizes.__getitem__), self._shape.batch_size)


class _Chunk:
    """Batches of neighbours in ``members``, in an order drawn by ``key``."""

    def __init__(self, key: tuple[int, int, int], members: list[int], batch_size: int) -> None:
        self.key = key
        self._members, self._batch_size = array("i", members), batch_size
        self._order = Permutation(_pieces(len(members), batch_size), key)

    def __getitem__(self, place: int) -> Sequence[int]:
        first = self._order[place] * self._batch_size
        return self._members[first : first + self._batch_size]


def collate(samples: Sequence[Sample], shape: Shape) -> Batch:
    """Pad samples into one batch: inputs are all tokens but the last, targets all but the first."""
    cut = [array("i", ids[: shape.max_length]) for ids, _ in samples]
    lengths = [max(len(ids) - 1, 0) for ids in cut]
    width = min(_round_up(max(lengths, default=0), shape.pad_multiple), shape.max_length)
    inputs = _zeros("i", shape.batch_size * width)
    positions = _positions(shape.batch_size * shape.max_length)
    rows, targets, empty = array("i"), array("i"), 0
    for b, (ids, (_, prompt)) in enumerate(zip(cut, samples, strict=True)):
        start, first = b * width, min(max(prompt, 1), len(ids))
        inputs[start : start + lengths[b]] = ids[:-1]
        rows.extend(positions[start + first - 1 : start + len(ids) - 1])
        targets.extend(ids[first:])
        empty += first == len(ids)
    count = len(targets)
    padding = _round_up(count, shape.pad_multiple) - count
    return Batch(
        inputs=memoryview(inputs).cast("B").cast("i", (shape.batch_size, width)),
        rows=memoryview(rows + _zeros("i", padding)),
        targets=memoryview(targets + _zeros("i", padding)),
        weights=memoryview(array("f", [1.0]) * count + _zeros("f", padding)),
        num_tokens=count,
        padded_cells=len(inputs) - sum(lengths),
        truncated=sum(len(ids) > shape.max_length for ids, _ in samples),
        empty=empty,
    )


@cache
def _positions(count: int) -> array:
    """``range(count)``; copying a slice of it is far faster than making its numbers."""
    return array("i", range(count))


def _zeros(typecode: str, count: int) -> array:
    return array(typecode, [0]) * count


def _pieces(count: int, size: int) -> int:
    """How many of ``size`` it takes to hold ``count``."""
    return -(-count // size)


def _round_up(count: int, multiple: int) -> int:
    return max(_pieces(count, multiple), 1) * multiple
