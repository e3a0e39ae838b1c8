"""A count of what is alive: arrays by shape and type, Python objects by type, MLX's own figures.

Counts hold numbers and names only, never an object, so that they keep nothing alive.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from lab.explain.paths import type_name
from lab.explain.watch_calls import Calls
from lab.machine import process

LONG = 16  # items of a container that may be what grows
SAMPLE = 16  # of what grew; the holder of most of them is the holder
TRIED, OVERHEAD = 256, 512  # arrays made to measure; bytes where the heap does not say
Group = tuple[tuple[int, ...], str]
"""Shape and dtype of an array."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What was alive after a step.

    Attributes:
        arrays: number of arrays by shape and type.
        types: number of Python objects by the full name of their type.
        heap: bytes that the C heap took from the system; None where that is not known.
        holes: those of them that are free in pieces below a page; None where that is not known.
        traces: of each compiled function, by name and calling line.
        streams: made so far, by calling line.
    """

    step: int
    arrays: dict[Group, int]
    types: dict[str, int]
    heap: int | None
    holes: int | None
    traces: dict[tuple[str, str], int]
    streams: dict[str, int]


def count(step: int, calls: Calls | None, objects: list[Any]) -> Counts:
    """Count all that Python's collector knows of.

    Arguments:
        objects: ``gc.get_objects()``.
    """
    types: Counter[str] = Counter()
    for kind, number in Counter(map(type, objects)).items():
        types[type_name(kind)] += number  # a class made anew in a function has the name again
    return Counts(
        step=step,
        arrays=Counter(group_of(item) for item in objects if type(item) is mx.array),
        types=types,
        heap=process.heap_taken_bytes(),
        holes=process.heap_holes_bytes(),
        traces={} if calls is None else {k: t.traces for k, t in calls.traced.items()},
        streams={} if calls is None else dict(calls.streams),
    )


def take(step: int, calls: Calls | None) -> Counts:
    """Count now."""
    return count(step, calls, gc.get_objects())


def objects_by_age() -> list[Any]:
    """All that Python's collector knows of, roughly the oldest first."""
    return [item for generation in (2, 1, 0) for item in gc.get_objects(generation)]


def group_of(array: mx.array) -> Group:
    return tuple(array.shape), str(array.dtype).rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class Grown:
    """Arrays of one shape and type that became more or fewer.

    Attributes:
        count, more: how many are computed, and how many more than before.
        nbytes: of one of them.
        overhead: bytes that MLX keeps for one beside them.
    """

    group: Group
    count: int
    more: int
    nbytes: int
    overhead: float = 0.0

    @property
    def bytes(self) -> int:
        return self.more * self.nbytes

    @property
    def weight(self) -> float:
        """Bytes that it grew by in all."""
        return self.more * (self.nbytes + self.overhead)

    def __str__(self) -> str:
        shape, dtype = self.group
        return f"{list(shape)} {dtype}"


def changed_arrays(before: Counts, arrays: list[mx.array], overhead: float) -> list[Grown]:
    """The groups of which there are more than before, or fewer; the heaviest first.

    Arguments:
        arrays: those that are computed; a lazy one takes no memory of its own.
        overhead: bytes of one beside its content.
    """
    now = Counter(map(group_of, arrays))
    sizes = {group_of(array): array.nbytes for array in arrays}
    changed = [
        Grown(group, now[group], more, sizes.get(group, 0), overhead)
        for group in now.keys() | before.arrays.keys()
        if (more := now[group] - before.arrays.get(group, 0))
    ]
    return sorted(changed, key=lambda grown: -grown.weight)


def array_overhead() -> float:
    """Bytes that an array takes beside its content, of the C heap and of Python; measured on some.

    It is a lower bound: buffers as small as theirs may come from MLX's cache.
    """
    before = process.heap_bytes()
    arrays = [mx.array([0]) for _ in range(TRIED)]
    after = process.heap_bytes()
    heap = OVERHEAD if before is None or after is None else max(after - before, 0) / TRIED
    return heap + sys.getsizeof(arrays[0])


def grown_types(before: Counts, now: Counts) -> list[tuple[str, int]]:
    """Types of Python objects of which there are more, and how many more, the most first."""
    more = {name: number - before.types.get(name, 0) for name, number in now.types.items()}
    return sorted(((n, m) for n, m in more.items() if m > 0), key=lambda found: -found[1])


def sample_of(items: list[Any], most: int = SAMPLE) -> list[Any]:
    """A few of them, evenly spread."""
    every = max(1.0, len(items) / most)
    return [items[int(i * every)] for i in range(min(most, len(items)))]


def size_of(sample: list[Any]) -> float:
    """Mean bytes of some objects, with what only they may hold: numbers, text, other plain values.

    Python's collector does not know of such values, so no count has them.
    """
    total = 0
    for item in sample:
        plain = [part for part in gc.get_referents(item) if not gc.is_tracked(part)]
        total += sum(map(sys.getsizeof, (item, *plain)))
    return total / max(len(sample), 1)


def container_sizes() -> dict[int, int]:
    """The number of items of each longer container, by its ``id``."""
    return {id(item): len(item) for item in gc.get_objects() if _is_long(item)}


def grown_containers(sizes: dict[int, int], objects: list[Any]) -> list[tuple[Any, float]]:
    """The containers that took in items, with about how many bytes, the most first."""
    grown = []
    for item in objects:
        if _is_long(item) and (more := len(item) - sizes.get(id(item), len(item))) > 0:
            newest = list(item.values() if isinstance(item, dict) else item)[-more:]
            plain = [part for part in sample_of(newest) if not gc.is_tracked(part)]
            if plain:
                grown.append((item, more * sum(map(sys.getsizeof, plain)) / len(plain)))
    return sorted(grown, key=lambda found: -found[1])


def _is_long(item: Any) -> bool:
    return type(item) in (list, dict, set, deque) and len(item) >= LONG
