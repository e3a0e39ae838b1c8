"""Which samples make which batch: a pure function of seed and index, each sample once an epoch."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from lab.data.permutation import Permutation
from lab.data.shapes import Need, ceil_div

# Batches whose samples are sorted by length together. More means less padding, but sorting a whole
# epoch as one chunk would make the same batches in every epoch.
CHUNK = 256


class Order(Protocol):
    """Of the samples of a split. Without a seed (validation) it is the same in every epoch."""

    def __len__(self) -> int:
        """Batches in an epoch, including an incomplete one."""
        ...

    def rows(self, index: int) -> Sequence[Sequence[int]]:
        """Positions of the samples in each row of batch ``index``, counted from 0 across epochs."""
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

    def rows(self, index: int) -> Sequence[Sequence[int]]:
        return [[member] for member in self.members(index)]

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


class Line:
    """All samples in line by their width, narrowest first, those of a width permuted each epoch.

    As many samples have a width in each epoch, a place in the line always holds one of that width.

    Within a width the samples are drawn by strata: of as many as a batch has places, by their rows
    in the loss, each gives one to every batch. So batches of a width need about as many rows, and
    what each may need at most is known.

    Arguments:
        widths: (n,), to which each sample is padded at least.
        rows: (n,), how many positions of each sample count in the loss.
        size_of: samples in a batch of a width.
        seed: seeds the permutations; None: they are those of epoch 0 in each.
    """

    def __init__(
        self,
        widths: Sequence[int],
        rows: Sequence[int],
        size_of: Callable[[int], int],
        seed: int | None,
    ) -> None:
        self.seed = seed
        self._widths, self._rows = widths, rows
        groups: dict[int, array[int]] = {}
        for position, width in enumerate(widths):
            groups.setdefault(width, array("i")).append(position)
        self._line, self.groups = array("i"), list[Group]()
        for width, positions in sorted(groups.items()):
            self.groups.append(Group(width, len(self._line), len(positions), size_of(width)))
            self._line.extend(sorted(positions, key=rows.__getitem__))
        self._epoch, self._permutations = 0, dict[tuple[int, ...], Permutation]()

    def __len__(self) -> int:
        return len(self._line)

    def sample(self, epoch: int, at: int) -> int:
        """The sample at a place."""
        start, count, nth, *key = self._stratum(at)
        return self._line[start + self.permutation(epoch, count, *key)[nth]]

    def at_most(self, at: int) -> Need:
        """What the sample at a place may need, in any epoch."""
        start, count, *_ = self._stratum(at)
        last = self._line[start + count - 1]
        return Need(self._widths[last], self._rows[last])

    def permutation(self, epoch: int, count: int, *of: int) -> Permutation:
        """Of ``range(count)``, one for each name in each epoch."""
        epoch = 0 if self.seed is None else epoch
        if epoch != self._epoch:
            self._epoch, self._permutations = epoch, {}
        if of not in self._permutations:
            self._permutations[of] = Permutation(count, (self.seed or 0, epoch, *of))
        return self._permutations[of]

    def _stratum(self, at: int) -> tuple[int, int, int, int, int]:
        """Start, count, which of it comes at a place, the numbers of its group and its own."""
        number = bisect_right(self.groups, at, key=lambda group: group.start) - 1
        group = self.groups[number]
        nth, stratum = divmod(at - group.start, group.batch_size)
        return (*group.stratum(stratum), nth, number, stratum)


@dataclass(frozen=True)
class Group:
    """The samples of one width: where they begin in the line, and how many there are."""

    width: int
    start: int
    count: int
    batch_size: int

    def stratum(self, number: int) -> tuple[int, int]:
        """Where the samples begin that come at every ``batch_size``-th place, and their count."""
        share, more = divmod(self.count, self.batch_size)
        return self.start + number * share + min(number, more), share + (number < more)


class BucketOrder:
    """Batches of samples of one width each, in a new combination every epoch.

    Batches are cut off a line of all samples from its widest end, so only the last one of a width
    takes some of the next narrower one, and the incomplete one is the narrowest. The cuts are the
    same in every epoch; the batches between them are permuted.

    The first batch of all is a widest one: what a run needs at most it needs at its first step.
    """

    def __init__(self, line: Line) -> None:
        self._line, self._cuts = line, _cuts(line)

    def __len__(self) -> int:
        return len(self._cuts) - 1

    def rows(self, index: int) -> Sequence[Sequence[int]]:
        return [[member] for member in self.members(index)]

    def members(self, index: int) -> Sequence[int]:
        """The samples of batch ``index``."""
        epoch, place = divmod(index, len(self))
        cut = self._batch_at(epoch, place)
        return [self._line.sample(epoch, at) for at in range(*self._cuts[cut : cut + 2])]

    def at_most(self) -> Iterator[Need]:
        """What each batch of an epoch may need, whichever samples it draws from the strata."""
        for start, stop in pairwise(self._cuts):
            needs = [self._line.at_most(at) for at in range(start, stop)]
            yield Need(max(need.width for need in needs), sum(need.rows for need in needs))

    def _batch_at(self, epoch: int, place: int) -> int:
        order, last = self._line.permutation(epoch, len(self)), len(self) - 1
        if self._line.seed is None or epoch > 0:
            return order[place]
        return {order[0]: last, last: order[0]}.get(order[place], order[place])


def _cuts(line: Line) -> array[int]:
    """Where batches begin and end in the line, cut off from its widest end."""
    cuts = array("i", [len(line)])
    for group in reversed(line.groups):
        while cuts[-1] > group.start:
            cuts.append(max(cuts[-1] - group.batch_size, 0))
    cuts.reverse()
    return cuts
