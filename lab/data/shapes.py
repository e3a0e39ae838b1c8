"""The few shapes that batches are padded to, chosen once from the lengths of the data.

Each shape of a batch costs a compilation, buffers of its own and, on CUDA, a plan of cuDNN, so
there are few. What they are is a pure function of the lengths and of the config.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from heapq import nlargest
from itertools import accumulate, pairwise
from typing import NamedTuple

# What a cell of the inputs costs, in rows of the loss, forward and backward: measured 5 of the tiny
# model and 3 of SmolLM2, by parameters 4 of a 1 B Llama and 14 of one of 8 B. Between 4 and 8 the
# cost of an epoch moves by 0.3 %. A whole number, so that no rounding decides.
ROWS_PER_CELL = 6
# Widths and numbers of rows that are tried: more cost the start of a run time and win nothing.
CANDIDATES = 64


class Need(NamedTuple):
    """What a batch cannot do without.

    Attributes:
        width: tokens of its longest input.
        rows: positions that count in the loss.
    """

    width: int
    rows: int

    def holds(self, other: Need) -> bool:
        return other.width <= self.width and other.rows <= self.rows


@dataclass(frozen=True)
class Signature:
    """The shape of a batch: inputs (``batch_size``, ``width``), and ``rows`` loss positions."""

    batch_size: int
    width: int
    rows: int

    @property
    def cells(self) -> int:
        return self.batch_size * self.width

    @property
    def price(self) -> int:
        """What a step of it costs, in loss rows."""
        return ROWS_PER_CELL * self.cells + self.rows

    def fits(self, samples: int, need: Need) -> bool:
        """Whether a batch of so many samples can be padded to it."""
        return samples <= self.batch_size and Need(self.width, self.rows).holds(need)


@dataclass(frozen=True)
class Grid:
    """What widths and numbers of rows are rounded up to before any is chosen.

    Attributes:
        width: a multiple of ``data.pad_multiple``, which leaves at most ``CANDIDATES`` widths.
        rows: the same of the rows.
        buckets: ascending; widths that are allowed, where the user chose them.
    """

    width: int
    rows: int
    buckets: tuple[int, ...] = ()

    @classmethod
    def of(cls, largest: Need, multiple: int, buckets: tuple[int, ...] = ()) -> Grid:
        """For batches that need at most ``largest``."""
        width, rows = (round_up(ceil_div(most, CANDIDATES), multiple) for most in largest)
        return cls(width, rows, buckets)

    def width_of(self, length: int) -> int:
        """The smallest width that holds inputs of ``length`` tokens."""
        width = round_up(length, self.width)
        return next((bucket for bucket in self.buckets if bucket >= length), width)

    def rounded(self, need: Need) -> Need:
        return Need(self.width_of(need.width), round_up(need.rows, self.rows))


def choose_signatures(
    needs: Iterable[Need], largest: Need, grid: Grid, *, batch_size: int, most: int
) -> tuple[Signature, ...]:
    """Signatures for batches of ``batch_size``, at which these batches cost least.

    Exact among chains of :func:`_candidates`, in which each is larger than the one before in both
    dimensions: a dynamic program over the last one and the number of those before it.

    Arguments:
        needs: of the batches, as they will be made.
        largest: what any batch may need, also one that is not among ``needs``.
        most: number of signatures, at least 1.

    Returns:
        Cheapest first; the last one holds everything.
    """
    counted, top = Counter(map(grid.rounded, needs)), grid.rounded(largest)
    candidates = _candidates(counted, top)
    prices = [Signature(batch_size, *need).price for need in candidates]
    held = [sum(n for need, n in counted.items() if c.holds(need)) for c in candidates]
    below = [[j for j in range(i) if c.holds(candidates[j])] for i, c in enumerate(candidates)]
    alone = [price * count for price, count in zip(prices, held, strict=True)]
    # By number of signatures: what all that the last one holds costs at least, and the one before.
    totals, before = alone, []
    for _ in range(most - 1):
        found = [
            min(
                ((totals[j] + prices[i] * (held[i] - held[j]), j) for j in below[i]),
                default=(alone[i], -1),
            )
            for i in range(len(candidates))
        ]
        found = [min(pair, (alone[i], -1)) for i, pair in enumerate(found)]
        totals = [total for total, _ in found]
        before.append([j for _, j in found])
    chosen = [candidates.index(top)]
    for previous in reversed(before):
        if (j := previous[chosen[-1]]) < 0:
            break
        chosen.append(j)
    return tuple(Signature(batch_size, *candidates[i]) for i in reversed(chosen))


def _candidates(needs: Collection[Need], top: Need) -> list[Need]:
    """Needs that occur, and what holds one of them and the next wider ones too; ascending."""
    widths = sorted({need.width for need in needs} | {top.width})
    wider = dict(pairwise(widths))
    found = {*needs, top}
    found |= {Need(wider[need.width], need.rows) for need in needs if need.width in wider}
    highest = accumulate(
        (max((n.rows for n in needs if n.width == w), default=0) for w in widths), max
    )
    found |= {Need(width, rows) for width, rows in zip(widths, highest, strict=True) if rows}
    return sorted(found)


def most_rows(rows: Iterable[int], batch_size: int) -> int:
    """The most that any ``batch_size`` samples with these numbers of rows have together."""
    return sum(nlargest(batch_size, rows))


def ceil_div(count: int, size: int) -> int:
    """Ceiling division."""
    return -(-count // size)


def round_up(count: int, multiple: int) -> int:
    """The least multiple, at least one, that is not below ``count``."""
    return max(ceil_div(count, multiple), 1) * multiple
