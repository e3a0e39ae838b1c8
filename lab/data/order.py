"""Which samples make which batch: a pure function of seed and index, each sample once an epoch."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

from lab.data.permutation import Permutation
from lab.data.shapes import ceil_div

# Batches whose samples are sorted by length together. More means less padding, but sorting a whole
# epoch as one chunk would make the same batches in every epoch.
CHUNK = 256


class Order(Protocol):
    """Of the samples of a split. Without a seed (validation) it is the same in every epoch."""

    def __len__(self) -> int:
        """Batches in an epoch, including an incomplete one."""
        ...

    def members(self, index: int) -> Sequence[int]:
        """Positions of the samples of batch ``index``, counted from 0 across epochs."""
        ...


class ChunkedOrder:
    """Sorted by size within chunks: for lengths that are not known before they are read.

    An epoch is a permutation of all samples, cut into chunks of about ``CHUNK`` batches. A chunk is
    sorted by size, cut into batches, and its batches are permuted. Only the current chunk is in
    memory.

    Arguments:
        sizes: (n,), length of each sample in any unit; the sort key.
        batch_size: samples in a batch.
        seed: seeds the order; ``None`` (validation) sorts all samples as one chunk and has the same
            order in every epoch, permuted so that the first few batches mix all lengths.
    """

    def __init__(self, sizes: Sequence[int], batch_size: int, seed: int | None) -> None:
        self._sizes, self._batch_size, self._seed = sizes, batch_size, seed
        # At least two chunks: with one every epoch would have the same batches.
        chunks = 1 if seed is None else max(ceil_div(len(self), CHUNK), 2)
        self._per_chunk = ceil_div(len(self), chunks)
        self._chunk: _Chunk | None = None

    def __len__(self) -> int:
        return ceil_div(len(self._sizes), self._batch_size)

    def members(self, index: int) -> Sequence[int]:
        epoch, place = divmod(index, len(self))
        number, place = divmod(place, self._per_chunk)
        key = (0, 0, number) if self._seed is None else (self._seed, epoch, number)
        if self._chunk is None or self._chunk.key != key:
            self._chunk = self._make_chunk(key)
        return self._chunk[place]

    def _make_chunk(self, key: tuple[int, int, int]) -> _Chunk:
        count, width = len(self._sizes), self._per_chunk * self._batch_size
        order = range(count) if self._seed is None else Permutation(count, key[:2])
        drawn = (order[i] for i in range(count)[key[2] * width :][:width])
        return _Chunk(key, sorted(drawn, key=self._sizes.__getitem__), self._batch_size)


class _Chunk:
    """Consecutive ``members`` as batches, in an order keyed by ``key``."""

    def __init__(self, key: tuple[int, int, int], members: list[int], batch_size: int) -> None:
        self.key = key
        self._members, self._batch_size = array("i", members), batch_size
        self._order = Permutation(ceil_div(len(members), batch_size), key)

    def __getitem__(self, place: int) -> Sequence[int]:
        first = self._order[place] * self._batch_size
        return self._members[first : first + self._batch_size]


class BucketOrder:
    """Batches of samples of one width each, in a new combination every epoch.

    All samples stand in line by their width, narrowest first, those of one width permuted anew in
    each epoch. Batches are cut off from the widest end, so only the last one of a width takes some
    of the next narrower one, and the incomplete one is the narrowest. As many samples have a width
    in each epoch, the cuts are always the same; the batches between them are permuted.

    The first batch of all is a widest one: what a run needs at most it needs at its first step.

    Arguments:
        widths: (n,), to which each sample is padded at least.
        size_of: samples in a batch of a width.
        seed: seeds the order.
    """

    def __init__(
        self, widths: Sequence[int], size_of: Callable[[int], int], seed: int | None
    ) -> None:
        self._seed = seed
        groups: dict[int, array[int]] = {}
        for position, width in enumerate(widths):
            groups.setdefault(width, array("i")).append(position)
        self._line, self._groups = array("i"), list[int]()
        for _, positions in sorted(groups.items()):
            self._groups.append(len(self._line))
            self._line.extend(positions)
        self._cuts = _cuts([widths[position] for position in self._line], size_of)
        self._epoch, self._permutations = 0, dict[int, Permutation]()

    def __len__(self) -> int:
        return len(self._cuts) - 1

    def members(self, index: int) -> Sequence[int]:
        epoch, place = divmod(index, len(self))
        epoch = 0 if self._seed is None else epoch
        if epoch != self._epoch:
            self._epoch, self._permutations = epoch, {}
        cut = self._batch_at(place)
        return [self._line[self._permuted(at)] for at in range(*self._cuts[cut : cut + 2])]

    def standing(self) -> list[Sequence[int]]:
        """The batches of an epoch in which nothing is permuted, narrowest first."""
        return [self._line[start:stop] for start, stop in pairwise(self._cuts)]

    def _batch_at(self, place: int) -> int:
        order, last = self._permutation(_BATCHES, len(self)), len(self) - 1
        if self._seed is None or self._epoch > 0:
            return order[place]
        first = order[0]
        return {first: last, last: first}.get(order[place], order[place])

    def _permuted(self, at: int) -> int:
        """Who stands at a place of the line in this epoch, as a place in the line itself."""
        group = bisect_right(self._groups, at) - 1
        start, *after = self._groups[group : group + 2]
        stop = after[0] if after else len(self._line)
        return start + self._permutation(group, stop - start)[at - start]

    def _permutation(self, number: int, count: int) -> Permutation:
        if number not in self._permutations:
            key = (self._seed or 0, self._epoch, number)
            self._permutations[number] = Permutation(count, key)
        return self._permutations[number]


_BATCHES = -1  # number of the permutation of batches, beside those of groups


def _cuts(widths: Sequence[int], size_of: Callable[[int], int]) -> array[int]:
    """Where batches begin and end in a line of samples of these widths, from its widest end."""
    cuts = array("i", [len(widths)])
    while cuts[-1]:
        cuts.append(max(cuts[-1] - size_of(widths[cuts[-1] - 1]), 0))
    cuts.reverse()
    return cuts
