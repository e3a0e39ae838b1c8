"""Batches of about equal tokens in place of equally many samples, in few shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Self

from lab.data.shapes import Grid, Need, Signature, choose_signatures

SizeOf = Callable[[int], int]  # samples in a batch, by their width


@dataclass(frozen=True)
class Drawn:
    """Batches of one choice of widths.

    Attributes:
        needs: of a sample of them.
        at_most: what each may need.
    """

    needs: Sequence[Need]
    at_most: Sequence[Need]


def equal_tokens(
    needs: Sequence[Need],
    grid: Grid,
    draw: Callable[[SizeOf], Drawn],
    *,
    cells: int,
    most: int,
) -> tuple[Signature, ...]:
    """Signatures of about ``cells`` each: short samples come in larger batches than long ones.

    Every number of widths is tried, of each the widths that lose least. What signatures are left
    go, one after the other, to the width where one more saves most rows of the loss.

    Arguments:
        needs: of each sample.
        draw: makes batches.
        most: number of signatures, at least 1.

    Returns:
        Cheapest first. One of each width has rows for any batch of it.
    """
    found: list[tuple[float, tuple[Signature, ...]]] = []
    for count in range(1, most + 1):
        widths = _best_widths(needs, grid, count)
        if len(widths) < count:
            break  # there are no more
        buckets = _buckets(widths, needs, grid, draw, cells=cells, most=most)
        shares = [1] * count
        while sum(shares) < most:
            saved, at = max((b.saved(shares[i]), -i) for i, b in enumerate(buckets))
            if saved <= 0:
                break
            shares[-at] += 1
        pairs = list(zip(buckets, shares, strict=True))
        price = sum(bucket.price(share) for bucket, share in pairs)
        signatures = chain.from_iterable(bucket.options[share - 1] for bucket, share in pairs)
        found.append((price, tuple(sorted(signatures, key=lambda s: (s.price, s.width)))))
    return min(found, key=lambda pair: pair[0])[1]


def size_of(signatures: Sequence[Signature], width: int) -> int:
    """Samples in a batch of a width: those of the narrowest signature that is wide enough."""
    return min((s.width, s.batch_size) for s in signatures if s.width >= width)[1]


@dataclass(frozen=True)
class _Bucket:
    """The batches of one width.

    Attributes:
        options: the best signatures for them, by how many there may be, from 1.
        drawn: rows that a sample of them need; those of the largest signature where there is none.
        batches: in an epoch.
    """

    options: tuple[tuple[Signature, ...], ...]
    drawn: tuple[int, ...]
    batches: float

    @classmethod
    def of(cls, top: Signature, drawn: Sequence[int], samples: int, grid: Grid, most: int) -> Self:
        seen = tuple(drawn) or (top.rows,)
        needs = [Need(top.width, rows) for rows in seen]
        largest, size = Need(top.width, top.rows), top.batch_size
        options = tuple(
            choose_signatures(needs, largest, grid, batch_size=size, most=count)
            for count in range(1, most + 1)
        )
        return cls(options, seen, samples / size)

    def price(self, count: int) -> float:
        """Of an epoch with so many signatures."""
        option = self.options[count - 1]
        prices = [next(s.price for s in option if s.rows >= rows) for rows in self.drawn]
        return self.batches * sum(prices) / len(prices)

    def saved(self, count: int) -> float:
        """What one signature more than ``count`` saves."""
        more = count < len(self.options)
        return self.price(count) - self.price(count + 1) if more else 0.0


def _best_widths(needs: Sequence[Need], grid: Grid, count: int) -> list[int]:
    longest = Need(max(need.width for need in needs), 0)
    alone = (Need(need.width, 0) for need in needs)
    chosen = choose_signatures(alone, longest, grid, batch_size=1, most=count)
    return [signature.width for signature in chosen]


def _buckets(
    widths: Sequence[int],
    needs: Sequence[Need],
    grid: Grid,
    draw: Callable[[SizeOf], Drawn],
    *,
    cells: int,
    most: int,
) -> list[_Bucket]:
    sizes = [Signature(max(cells // width, 1), width, 1) for width in widths]
    drawn = draw(lambda width: size_of(sizes, width))
    made = []
    for below, size in zip((0, *widths), sizes, strict=False):
        here = range(below + (below > 0), size.width + 1)  # a sample of no input too
        rows = max((need.rows for need in drawn.at_most if need.width in here), default=1)
        held = [need.rows for need in drawn.needs if need.width in here]
        samples = sum(need.width in here for need in needs)
        made.append(
            _Bucket.of(replace(size, rows=rows), held, samples, grid, most - len(widths) + 1)
        )
    return made
