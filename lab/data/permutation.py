"""A pseudo-random permutation by a Feistel network: O(1) time a position, O(sqrt(n)) memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

ROUNDS = 8  # with fewer, permutations of a few dozen positions are visibly not uniform


class Permutation(Sequence[int]):
    """A Feistel permutation of ``range(count)`` keyed by ``key``.

    The result never changes between versions, or between little-endian machines (all that MLX runs
    on are).

    A position is a pair ``(left, right)`` in the smallest square that holds ``count`` cells. Each
    of ``ROUNDS`` rounds adds a keyed table's entry for one half to the other half; a round is
    invertible, so the network permutes the square. Cells outside ``range(count)`` are mapped again
    until one is inside (cycle walking). The tables take O(sqrt(count)) memory, a position O(1)
    expected time.

    Args:
        count: length of the permutation.
        key: integers that select it, such as ``(seed, epoch)``.
    """

    def __init__(self, count: int, key: tuple[int, ...]) -> None:
        self._count = count
        self._side = side = math.isqrt(max(count - 1, 0)) + 1
        stream = hashlib.shake_128(repr(key).encode()).digest(ROUNDS * side * 4)
        words = memoryview(stream).cast("I")
        self._tables = [words[i : i + side] for i in range(0, len(words), side)]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, position: int) -> int:  # type: ignore[override]  # no slices
        if not 0 <= position < self._count:
            raise IndexError(position)
        cell = position
        while True:
            left, right = divmod(cell, self._side)
            for table in self._tables:
                left, right = right, (left + table[right]) % self._side
            cell = left * self._side + right
            if cell < self._count:
                return cell
