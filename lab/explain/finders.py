"""One look at everything alive: the rates of what grows, and who holds it, as numbers and names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import mlx.core as mx

from lab.config.units import MB
from lab.explain import census, graphs
from lab.explain.census import Counts, Grown
from lab.explain.explanation import Found
from lab.explain.holders import Holder, find_holder
from lab.explain.kinds import TRACES_A_STEP, Rates, split
from lab.explain.paths import type_name
from lab.explain.readings import Slopes
from lab.explain.watch_calls import Calls
from lab.records.growth import Trend

MOST_GROUPS = 5  # of shapes or types that are told
SIGNIFICANT = 0.1  # of the growth, that a type of objects must make up to be its cause
MOST_TYPES = 20  # that are weighed
LEAST_SHARE = 0.2  # of the growth, from which on its holder is looked for
SURE = 4.0  # standard errors by which the process must grow faster than its heap, to count
OFTEN = 0.5  # more objects of a type a step, from which on it counts as growing


@dataclass(frozen=True)
class Look:
    """What one look found: no object of the process is in it."""

    rates: Rates
    found: dict[str, Found]


def look(
    session: object,
    before: Counts,
    steps: int,
    slopes: Slopes,
    trend: Trend,
    *,
    now: int,
    calls: Calls | None,
    shared: bool,
    cache_is_cleared: bool,
    in_heap: bool,
) -> Look:
    """Compare what is alive with a baseline, and find who holds what became more.

    Arguments:
        steps: over which it grew.
        trend: what is certain to grow.
        now: this step.
        shared: MLX's memory is part of the process's.
        cache_is_cleared: now and then, so that its filling is no growth.
        in_heap: MLX takes it from the C heap.
    """
    objects = census.objects_by_age()
    arrays = [item for item in objects if type(item) is mx.array]
    lazy = graphs.lazy_arrays(arrays)
    computed = [array for array in arrays if id(array) not in lazy.ids]
    counts = census.count(now, calls, objects)
    overhead = census.array_overhead()
    changed = census.changed_arrays(before, computed, overhead)
    grown = [group for group in changed if group.more > 0]
    operations = sum(length for _, length in lazy.ends)
    lasting = slopes.without_cache(shared=shared) if cache_is_cleared else slopes
    heap, process = _heap_rate(before, counts, steps, slopes, in_heap=in_heap), lasting.process
    if trend.heap is not None and process is not None:
        # Certain is the heap in use, and so are the holes in it. Does the process say more?
        certain = trend.heap + _holes_rate(before, counts, steps)
        in_mlx = max(lasting.active, 0.0) + max(lasting.cache, 0.0) if shared else 0.0
        if process - in_mlx < certain + SURE * lasting.error:
            heap, process = certain, certain + in_mlx
    rates = Rates(
        process=process,
        active=lasting.active,
        cache=lasting.cache,
        visible=sum(group.bytes for group in changed) / steps,
        shared=shared,
        lazy_operations=operations / steps if operations >= steps else 0.0,
        traces=_more(counts.traces, before.traces) / steps,
        streams=_more(counts.streams, before.streams) / steps,
        heap=heap,
        arrays=sum(group.more for group in changed) / steps,
        overhead=overhead,
        outside_is_certain=trend.outside,
        cache_is_certain=trend.cache,
    )
    search = _Search(session, objects, arrays, computed, lazy.ends)
    return Look(rates, _holders(search, rates.certain, grown, before, counts, steps, calls))


def _holders(
    search: _Search,
    certain: Rates,
    grown: Sequence[Grown],
    before: Counts,
    counts: Counts,
    steps: int,
    calls: Calls | None,
) -> dict[str, Found]:
    """Who holds each kind that is much of what is certain to grow."""
    least = SIGNIFICANT * certain.total * steps
    of_python = cache(lambda: search.python(before, counts, steps, least))
    find: dict[str, Callable[[], Found]] = {
        "active": lambda: search.arrays(grown),
        "cache": lambda: Found(what=[_group_row(group) for group in grown[:MOST_GROUPS]]),
        "lazy_graph": search.lazy,
        "compile_cache": lambda: _compiled(before, calls, steps),
        "python": of_python,
        "native": lambda: _streams(before, counts, steps) or of_python(),
    }
    shares = split(certain)
    # What is outside MLX and not yet traced may turn out to be Python's.
    shares["python"] = max(shares["python"], shares["native"], shares["other"])
    return {kind: find[kind]() for kind in find if shares[kind] > LEAST_SHARE * certain.total}


def _more(now: dict[Any, int], before: dict[Any, int]) -> int:
    return sum(now.values()) - sum(before.values())


def _heap_rate(
    before: Counts, now: Counts, steps: int, slopes: Slopes, *, in_heap: bool
) -> float | None:
    """Growth of the C heap beyond MLX's own, free parts that were not given back included."""
    if before.heap is None or now.heap is None:
        return None
    rate = (now.heap - before.heap) / steps
    return rate - (slopes.active + slopes.cache if in_heap else 0.0)


def _holes_rate(before: Counts, now: Counts, steps: int) -> float:
    if before.holes is None or now.holes is None:
        return 0.0
    return max(now.holes - before.holes, 0) / steps


@dataclass(frozen=True)
class _Search:
    """The holders of samples from one list of objects."""

    session: object
    objects: list[Any]
    all_arrays: list[mx.array]
    computed: list[mx.array]
    ends: list[tuple[mx.array, int]]

    def _holder(self, sample: Sequence[Any]) -> Holder | None:
        containers = (self.objects, self.all_arrays, self.computed, self.ends, *self.ends)
        return find_holder(sample, self.session, ignore=containers) if sample else None

    def arrays(self, grown: Sequence[Grown]) -> Found:
        """Who holds the newest of the arrays that became more."""
        newest: list[mx.array] = []
        for group in [g for g in grown if g.weight >= LEAST_SHARE * grown[0].weight][:MOST_GROUPS]:
            newest += self._newest(group)
        holder = self._holder(newest)
        return _found(holder, [_group_row(group) for group in grown[:MOST_GROUPS]])

    def _newest(self, group: Grown) -> list[mx.array]:
        alike = [array for array in self.computed if census.group_of(array) == group.group]
        return census.sample_of(alike[-group.more :], census.SAMPLE // 2)

    def lazy(self) -> Found:
        """Who holds the ends of the longest lazy graphs."""
        longest = self.ends[0][1] if self.ends else 0
        ends = [end for end in self.ends if 2 * end[1] >= longest]  # no new tuples: they would hold
        sample = [array for array, _ in ends[: census.SAMPLE]]
        holder = self._holder(sample)
        rows = [
            {"array": _array_text(array), "operations": length}
            for array, length in ends[:MOST_GROUPS]
        ]
        found = _found(holder, rows)
        return replace(found, chain=longest or None)

    def python(self, before: Counts, now: Counts, steps: int, least: float) -> Found:
        """Who holds the newest objects of the type that grew most, by ``least`` bytes or more."""
        types = [(n, m) for n, m in census.grown_types(before, now) if m >= OFTEN * steps]
        samples = self._newest_of_types(dict(types[:MOST_TYPES]))
        sizes = {name: census.size_of(samples[name]) * more for name, more in types[:MOST_TYPES]}
        largest = sorted(sizes, key=lambda name: -sizes[name])[:MOST_GROUPS]
        rows = [
            {"type": name, "count": now.types[name], "more_mb": sizes[name] / MB}
            for name in largest
        ]
        if not largest or sizes[largest[0]] < least:
            return Found(what=rows)
        sample = samples[largest[0]]
        samples.clear()  # the others may hold what holds this one
        return _found(self._holder(sample), rows)

    def _newest_of_types(self, more: dict[str, int]) -> dict[str, list[Any]]:
        """A sample of the newest of each type, by its name, in one pass over all objects."""
        names = {kind: type_name(kind) for kind in set(map(type, self.objects))}
        alike: dict[str, list[Any]] = {name: [] for name in more}
        for item in self.objects:
            if (name := names[type(item)]) in alike:
                alike[name].append(item)
        return {name: census.sample_of(alike[name][-count:]) for name, count in more.items()}


def _found(holder: Holder | None, rows: list[dict[str, Any]]) -> Found:
    if holder is None:
        return Found(what=rows)
    return Found(holder.path, holder.root, rows, container=holder.container)


def _group_row(group: Grown) -> dict[str, Any]:
    return {
        "array": str(group),
        "count": group.count,
        "more": group.more,
        "mb": group.count * group.nbytes / MB,
        "more_mb": group.bytes / MB,
    }


def _array_text(array: mx.array) -> str:
    shape, dtype = census.group_of(array)
    return f"{list(shape)} {dtype}"


def _compiled(before: Counts, calls: Calls | None, steps: int) -> Found:
    """The compiled function that was traced anew most often."""
    if calls is None or not calls.traced:
        return Found()
    key, traced = max(
        calls.traced.items(), key=lambda item: item[1].traces - before.traces.get(item[0], 0)
    )
    more = traced.traces - before.traces.get(key, 0)
    if more < TRACES_A_STEP * steps:
        return Found()
    rows = [{"function": traced.name, "count": traced.traces, "more": more}]
    signatures = {"count": traced.traces, "changed": traced.changed}
    return Found(f"{traced.name}, compiled at {traced.line}", "compiled", rows, signatures)


def _streams(before: Counts, now: Counts, steps: int) -> Found | None:
    """The line that makes new streams; None where none does often."""
    more = {line: n - before.streams.get(line, 0) for line, n in now.streams.items()}
    line = max(more, key=lambda line: more[line], default=None)
    if line is None or more[line] < OFTEN * steps:
        return None
    rows = [{"line": line, "streams": now.streams[line], "more": more[line]}]
    return Found(f"{line} (new streams)", "line", rows)


def grown_container(sizes: dict[int, int], session: object, steps: int, least: float) -> Found:
    """Who holds the container that took in most bytes, as a list of numbers or text does.

    Arguments:
        sizes: what :func:`census.container_sizes` gave before.
        steps: since then.
        least: bytes a step, from which on it counts.
    """
    objects = census.objects_by_age()
    grown = census.grown_containers(sizes, objects)
    if not grown or grown[0][1] < least * steps:
        return Found()
    container, more = grown[0]
    holder = find_holder([container], session, ignore=[objects, grown, *grown])
    row = {"type": type_name(container), "count": len(container), "more_mb": more / MB}
    found = _found(holder, [row])
    return replace(found, container=found.holder)
