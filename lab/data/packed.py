"""Several samples in each row of a batch: packed rows, each sample once an epoch."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from heapq import nlargest

from lab.data.order import Line
from lab.data.shapes import Need, ceil_div


class PackedOrder:
    """Rows of one width, filled with samples as well as they fit.

    Best fit, the longest first, and once for all epochs: which lengths share a row stays the same,
    which samples have these lengths is drawn anew in each. So a batch is a pure function of seed
    and index, and no row is ever too long.

    Arguments:
        line: of the samples by their widths, each a batch of its own.
        width: of a row; no sample is longer.
        batch_size: rows in a batch.
    """

    def __init__(self, line: Line, width: int, batch_size: int) -> None:
        self._line, self._width, self._batch_size = line, width, batch_size
        self._packed = _best_fit(line, width)

    def __len__(self) -> int:
        return ceil_div(len(self._packed), self._batch_size)

    def rows(self, index: int) -> Sequence[Sequence[int]]:
        epoch, place = divmod(index, len(self))
        order = self._line.permutation(epoch, len(self._packed))
        places = range(len(self._packed))[place * self._batch_size :][: self._batch_size]
        rows = (self._packed[order[at]] for at in places)
        return [[self._line.sample(epoch, at) for at in row] for row in rows]

    def at_most(self) -> Iterator[Need]:
        """What any batch may need."""
        rows = (sum(self._line.at_most(at).rows for at in row) for row in self._packed)
        yield Need(self._width, sum(nlargest(self._batch_size, rows)))


def _best_fit(line: Line, width: int) -> list[array[int]]:
    """Places of the line, by the row that they are in."""
    rows: list[array[int]] = []
    open_rows: dict[int, list[int]] = {}  # by the room that is left
    for group in reversed(line.groups):
        for at in range(group.start, group.start + group.count):
            room = min((left for left in open_rows if left >= group.width), default=0)
            if room:
                number = open_rows[room].pop()
                if not open_rows[room]:
                    del open_rows[room]
            else:
                room, number = width, len(rows)
                rows.append(array("i"))
            rows[number].append(at)
            open_rows.setdefault(room - group.width, []).append(number)
    return rows
