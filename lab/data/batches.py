"""Micro-batches as a pure function of seed and index: no iterator state to checkpoint."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from lab.data.permutation import Permutation

# Batches whose samples are sorted by length together. More means less padding, but sorting a whole
# epoch as one chunk would make the same batches in every epoch.
CHUNK = 256

Sample = tuple[Sequence[int], int]  # token ids, length of the masked prompt


@dataclass(frozen=True)
class Batch:
    """One micro-batch on the host: ``B`` sequences padded to ``L``, ``N`` loss positions.

    The arrays are host buffers; ``mx.array`` copies them and keeps dtype and shape.

    Attributes:
        inputs: int32 (B, L), token ids, right-padded with 0; rows of padding fill up the last
            batch of an epoch.
        rows: int32 (N,), flattened positions ``b * L + i`` whose next token counts in the loss.
        targets: int32 (N,), the next token at each of these positions.
        weights: float32 (N,), 1 for a real target, 0 for the padding at the end of ``rows``.
        num_tokens: number of real targets; may be 0, while ``N`` never is.
        padded_cells: padding cells of ``inputs``.
        truncated: samples longer than ``max_length``.
        empty: samples without a token that counts in the loss.
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
    """Length-bucketed batches; each sample occurs once an epoch, each epoch has its own order.

    An epoch is a permutation of all samples, cut into chunks of about ``CHUNK`` batches. A chunk is
    sorted by size, cut into batches, and its batches are permuted. Only the current chunk is in
    memory.

    Args:
        sizes: (n,), length of each sample in any unit; the sort key.
        read: returns the sample at a position in ``sizes``.
        shape: how samples become batches.
        seed: seeds the order; ``None`` (validation) sorts all samples as one chunk and has the same
            order in every epoch, permuted so that the first few batches mix all lengths.
        repeat: how many micro-batches, from the first, all steps are made of; 0: of all.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        read: Callable[[int], Sample],
        shape: Shape,
        seed: int | None,
        *,
        repeat: int = 0,
    ) -> None:
        self._sizes, self._read, self._shape, self._seed = sizes, read, shape, seed
        self._repeat = repeat
        # At least two chunks: with one every epoch would have the same batches.
        chunks = 1 if seed is None else max(_ceil_div(len(self), CHUNK), 2)
        self._per_chunk = _ceil_div(len(self), chunks)
        self._chunk: _Chunk | None = None

    def __len__(self) -> int:
        """Micro-batches in an epoch, including the last incomplete one."""
        return _ceil_div(len(self._sizes), self._shape.batch_size)

    def batch(self, index: int) -> Batch:
        """Micro-batch ``index``, counted from 0 across epochs."""
        return collate([self._read(i) for i in self.members(index)], self._shape)

    def step(self, step: int) -> list[Batch]:
        """The micro-batches of optimizer step ``step``, from 1."""
        first = (step - 1) * self._shape.accumulation
        indices = range(first, first + self._shape.accumulation)
        return [self.batch(i % self._repeat if self._repeat else i) for i in indices]

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
    """Consecutive ``members`` as batches, in an order keyed by ``key``."""

    def __init__(self, key: tuple[int, int, int], members: list[int], batch_size: int) -> None:
        self.key = key
        self._members, self._batch_size = array("i", members), batch_size
        self._order = Permutation(_ceil_div(len(members), batch_size), key)

    def __getitem__(self, place: int) -> Sequence[int]:
        first = self._order[place] * self._batch_size
        return self._members[first : first + self._batch_size]


def collate(samples: Sequence[Sample], shape: Shape) -> Batch:
    """Truncate and pad samples into one batch, with targets shifted by one token."""
    cut = [array("i", ids[: shape.max_length]) for ids, _ in samples]
    lengths = [max(len(ids) - 1, 0) for ids in cut]
    width = padded_width(max(lengths, default=0), shape.max_length, shape.pad_multiple)
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


def padded_width(length: int, max_length: int, multiple: int) -> int:
    """Tokens that the inputs of a batch are padded to, whose longest row has ``length``."""
    return min(_round_up(length, multiple), max_length)


@cache
def _positions(count: int) -> array:
    """``range(count)`` as int32, cached: copying a slice is far faster than making the numbers."""
    return array("i", range(count))


def _zeros(typecode: str, count: int) -> array:
    return array(typecode, [0]) * count


def _ceil_div(count: int, size: int) -> int:
    """Ceiling division."""
    return -(-count // size)


def _round_up(count: int, multiple: int) -> int:
    return max(_ceil_div(count, multiple), 1) * multiple
