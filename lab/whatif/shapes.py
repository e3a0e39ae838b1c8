"""How MLX's cache grows with batches of many shapes: each new shape leaves buffers of its own.

MLX hands a freed buffer out again for an array that is a little smaller, never for a larger one. So
a step whose shape was there before adds nothing; one of a new shape adds what its arrays take
(MLX's peak in the step), less what buffers of the nearest larger shape serve. That share is taken
from recorded steps, by how near that shape was and how large the step.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from lab.whatif.recorded import Recording, Session, Values

LEAST_SHAPES = 12  # new shapes that the share is learned from
NEIGHBOURS = 9  # recorded steps, the nearest by distance and size, whose share is taken
SIZE_WEIGHT = 0.5  # of a difference in size, beside one in distance; both are ratios


@dataclass(frozen=True, eq=False)
class Shapes:
    """The shape and the work of every step of a run, and what a new shape adds to the cache.

    Attributes:
        cells: of each step from 1 on, as in :class:`Recording`, beyond its end its own again.
        work: GB that a step's arrays take.
        examples: recorded new shapes: cells to the next larger one, cells, GB added, work; shape
            (shapes, 4).
        shares, known: those that were asked for already; and the caches.
    """

    cells: Values
    work: Values
    examples: Values
    shares: dict[tuple[float, float], float] = field(default_factory=dict)
    known: dict[tuple[int, int], Values] = field(default_factory=dict)

    @classmethod
    def learned(cls, recordings: Sequence[Recording], steps: int) -> Self | None:
        """From recorded runs; None where their rows do not tell shapes, or shapes do not matter."""
        usable = [run for run in recordings if _tells_shapes(run)]
        if not usable:
            return None
        found = [e for run in usable for s in run.sessions for e in _new_shapes(run, s)]
        if len(found) < LEAST_SHAPES:
            return None
        longest = max(usable, key=lambda run: run.steps)
        cells, work = (np.resize(values, steps) for values in (longest.cells, longest.work))
        return cls(cells, work, np.array(found))

    def cache_of(self, start: int, count: int) -> Values:
        """GB of cache after each of ``count`` steps of a session that follows step ``start``."""
        if (start, count) not in self.known:
            self.known[start, count] = self._grown(start, count)
        return self.known[start, count]

    def _grown(self, start: int, count: int) -> Values:
        shares = np.zeros(count)
        for at, distance, size in _distances(self.cells[start : start + count]):
            shares[at] = self._share(distance, size)
        return np.cumsum(shares * self.work[start : start + count])

    def _share(self, distance: float, size: float) -> float:
        """The part of a new shape's work that it adds."""
        if (distance, size) not in self.shares:
            distances, sizes, added, work = self.examples.T
            away = np.abs(np.log((1 + distances) / (1 + distance)))
            away += SIZE_WEIGHT * np.abs(np.log(sizes / size))
            nearest = np.argsort(away, kind="stable")[:NEIGHBOURS]
            self.shares[distance, size] = float(added[nearest].sum() / work[nearest].sum())
        return self.shares[distance, size]


def _tells_shapes(run: Recording) -> bool:
    config = run.config
    is_known = not (np.isnan(run.cells).any() or np.isnan(run.work).any())
    one_shape = config.train.grad_accumulation_steps == 1 and not config.train.mask_prompt
    return is_known and one_shape and config.memory.cache_clear_interval == 0


def _new_shapes(run: Recording, session: Session) -> Iterator[tuple[float, ...]]:
    """Distance, cells, GB added and work of each new shape, up to where the cache met its limit."""
    cache = session.parts["cache"]
    room = 0.97 * run.config.memory.cache_limit_gb
    added = np.diff(cache, prepend=0.0)
    for at, distance, size in _distances(run.cells[session.start : session.start + len(session)]):
        if cache[at] < room:
            yield distance, size, float(added[at]), float(run.work[session.start + at])


def _distances(cells: Values) -> Iterator[tuple[int, float, float]]:
    """Where a shape is new, how many cells the next larger one so far has more, and its own.

    At most its own: a buffer twice as large is not handed out for it.
    """
    seen: list[float] = []
    for at, size in enumerate(cells.tolist()):
        where = bisect_left(seen, size)
        if where < len(seen) and seen[where] == size:
            continue
        yield at, min(seen[where] - size, size) if where < len(seen) else size, size
        insort(seen, size)
