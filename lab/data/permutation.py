"""A drawn order that is computed where it is needed: next to nothing to store, however long."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

ROUNDS = 8  # with fewer, orders of a few dozen are not all as likely


class Permutation(Sequence[int]):
    """A pseudo-random order of ``range(count)``, drawn by ``key``: the same for ever.

    The same on every machine, too, that is little-endian, as all are that MLX runs on.

    A Feistel network: positions are cells ``(left, right)`` of the smallest square that holds them
    all. Each round adds to one half a word that the other half looks up in the round's own table,
    which can be undone, so all rounds together only rearrange the square. A cell that is not below
    ``count`` is mapped again until one is. Tables take O(sqrt(count)) memory, a position O(1) time.
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
