"""Micro-batches as a pure function of seed and index: no iterator state to checkpoint."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from lab.data.order import Order
from lab.data.shapes import Need, Signature, round_up

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
        positions: int32 (B, L), of each token in its sample; None where a row has one sample.
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
    positions: memoryview | None = None

    @property
    def cells(self) -> int:
        """``B * L``, padding included."""
        return self.inputs.nbytes // self.inputs.itemsize


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How samples become batches; lengths in tokens.

    Attributes:
        signatures: that batches are padded to, cheapest first; empty: each batch is padded to a
            multiple of its own need.
        packs: several samples may be in a row.
    """

    batch_size: int
    accumulation: int
    max_length: int
    pad_multiple: int
    signatures: tuple[Signature, ...] = ()
    packs: bool = False

    @property
    def most_cells(self) -> int:
        """Of the largest batch."""
        own = self.batch_size * self.max_length
        return max((signature.cells for signature in self.signatures), default=own)

    def signature_of(self, rows: int, need: Need) -> Signature:
        """What a batch of so many rows is padded to."""
        if self.signatures:
            return next(s for s in self.signatures if s.fits(rows, need))
        width = padded_width(need.width, self.max_length, self.pad_multiple)
        return Signature(self.batch_size, width, round_up(need.rows, self.pad_multiple))


class Batches:
    """Length-bucketed batches; each sample occurs once an epoch, each epoch has its own order.

    Args:
        order: which samples make which batch.
        read: returns the sample at a position of the order.
        shape: how samples become batches.
        repeat: how many micro-batches, from the first, all steps are made of; 0: of all.
    """

    def __init__(
        self, order: Order, read: Callable[[int], Sample], shape: Shape, *, repeat: int = 0
    ) -> None:
        self.shape = shape
        self._order, self._read, self._repeat = order, read, repeat

    def __len__(self) -> int:
        """Micro-batches in an epoch, including an incomplete one."""
        return len(self._order)

    def batch(self, index: int) -> Batch:
        """Micro-batch ``index``, counted from 0 across epochs."""
        rows = self._order.rows(index)
        return collate([[self._read(i) for i in row] for row in rows], self.shape)

    def step(self, step: int) -> list[Batch]:
        """The micro-batches of optimizer step ``step``, from 1."""
        first = (step - 1) * self.shape.accumulation
        indices = range(first, first + self.shape.accumulation)
        return [self.batch(i % self._repeat if self._repeat else i) for i in indices]

    def members(self, index: int) -> Sequence[int]:
        """Positions of the samples of micro-batch ``index``."""
        return [member for row in self._order.rows(index) for member in row]


def collate(rows: Sequence[Sequence[Sample]], shape: Shape) -> Batch:
    """Truncate and pad samples into one batch, with targets shifted by one token.

    Arguments:
        rows: the samples of each row, one unless ``shape.packs``.
    """
    placed = [[_Placed.of(*sample, shape.max_length) for sample in row] for row in rows]
    everything = [sample for row in placed for sample in row]
    count = sum(len(sample.targets) for sample in everything)
    longest = max((sum(sample.length for sample in row) for row in placed), default=0)
    signature = shape.signature_of(len(rows), Need(longest, count))
    inputs, positions = _zeros("i", signature.cells), _zeros("i", signature.cells * shape.packs)
    numbers = _numbers(shape.most_cells)
    counted, targets = array("i"), array("i")
    for b, row in enumerate(placed):
        start = b * signature.width
        for sample in row:
            stop = start + sample.length
            inputs[start:stop] = sample.ids[:-1]
            if shape.packs:
                positions[start:stop] = numbers[: sample.length]
            counted.extend(numbers[stop - len(sample.targets) : stop])
            targets.extend(sample.targets)
            start = stop
    padding, size = signature.rows - count, (signature.batch_size, signature.width)
    return Batch(
        inputs=_shaped(inputs, size),
        rows=memoryview(counted + _zeros("i", padding)),
        targets=memoryview(targets + _zeros("i", padding)),
        weights=memoryview(array("f", [1.0]) * count + _zeros("f", padding)),
        num_tokens=count,
        padded_cells=len(inputs) - sum(sample.length for sample in everything),
        truncated=sum(sample.is_cut for sample in everything),
        empty=sum(not sample.targets for sample in everything),
        positions=_shaped(positions, size) if shape.packs else None,
    )


@dataclass(frozen=True)
class _Placed:
    """A sample that is cut to the sequence length.

    Attributes:
        ids: its tokens.
        length: of its inputs, all tokens but the last.
        targets: the tokens that count.
    """

    ids: array[int]
    length: int
    targets: array[int]
    is_cut: bool

    @classmethod
    def of(cls, given: Sequence[int], prompt: int, max_length: int) -> _Placed:
        ids = array("i", given[:max_length])
        first = min(max(prompt, 1), len(ids))
        return cls(ids, max(len(ids) - 1, 0), ids[first:], len(given) > max_length)


def padded_width(length: int, max_length: int, multiple: int) -> int:
    """Tokens that the inputs of a batch are padded to, whose longest row has ``length``."""
    return min(round_up(length, multiple), max_length)


@cache
def _numbers(count: int) -> array:
    """``range(count)`` as int32, cached: copying a slice is far faster than making the numbers."""
    return array("i", range(count))


def _zeros(typecode: str, count: int) -> array:
    return array(typecode, [0]) * count


def _shaped(values: array, shape: tuple[int, int]) -> memoryview:
    return memoryview(values).cast("B").cast("i", shape)
