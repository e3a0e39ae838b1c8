"""The few shapes that batches are padded to, chosen once from the lengths of the data.

Each shape of a batch costs a compilation, buffers of its own and, on CUDA, a plan of cuDNN, so
there are few. What they are is a pure function of the lengths and of the config.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import nlargest
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

    Exact among chains, in which a signature is larger than the one before in both dimensions: a
    dynamic program over the needs that occur. Of the needs that are not in a chain's next larger
    signature none is lost, for the last one holds ``largest``.

    Arguments:
        needs: of the batches, as they will be made.
        largest: what any batch may need, also one that is not among ``needs``.
        most: number of signatures, at least 1.

    Returns:
        Cheapest first; the last one holds everything.
    """
    counted, top = Counter(map(grid.rounded, needs)), grid.rounded(largest)
    candidates = sorted({*counted, top})
    price = {need: Signature(batch_size, *need).price for need in candidates}
    held = {need: sum(counted[n] for n in candidates if need.holds(n)) for need in candidates}
    below = {c: [n for n in candidates if n != c and c.holds(n)] for c in candidates}
    # Of each need, the least total price of a chain that ends with it, and that chain.
    chains = {c: (price[c] * held[c], (c,)) for c in candidates}
    for _ in range(most - 1):
        chains = {
            c: min(
                [
                    chains[c],
                    *(
                        (total + price[c] * (held[c] - held[n]), (*chain, c))
                        for n in below[c]
                        for total, chain in [chains[n]]
                    ),
                ]
            )
            for c in candidates
        }
    return tuple(Signature(batch_size, *need) for need in chains[top][1])


def equal_tokens(
    needs: Sequence[Need], grid: Grid, *, cells: int, most: int
) -> tuple[Signature, ...]:
    """Signatures of about ``cells`` each: short samples come in larger batches than long ones.

    Arguments:
        needs: of each sample.
        most: number of signatures, at least 1.

    Returns:
        Narrowest first. Each has rows for any of the samples that it is wide enough for.
    """
    longest = max(need.width for need in needs)
    widths = choose_signatures(
        (Need(need.width, 0) for need in needs), Need(longest, 0), grid, batch_size=1, most=most
    )
    signatures = []
    for width in (signature.width for signature in widths):
        batch_size = max(cells // width, 1)
        rows = most_rows((need.rows for need in needs if need.width <= width), batch_size)
        signatures.append(Signature(batch_size, width, round_up(rows, grid.rows)))
    return tuple(signatures)


def most_rows(rows: Iterable[int], batch_size: int) -> int:
    """The most that any ``batch_size`` samples with these numbers of rows have together."""
    return sum(nlargest(batch_size, rows))


def ceil_div(count: int, size: int) -> int:
    """Ceiling division."""
    return -(-count // size)


def round_up(count: int, multiple: int) -> int:
    """The least multiple, at least one, that is not below ``count``."""
    return max(ceil_div(count, multiple), 1) * multiple
