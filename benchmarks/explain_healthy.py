"""Simulated memory of healthy runs, drawn from what real ones show, and growth put into traces.

A trace is a list of steps, each with MLX's active memory and cache, the process's memory and the
heap in use (None: not read), in bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from random import Random

from lab.config.units import MB
from lab.records.growth import GrowthTest, Trend

Step = tuple[int, int, int | None, int | None]
PAGE = 4096


@dataclass(frozen=True)
class Trace:
    """One session's readings, and what bounds its cache."""

    name: str
    steps: list[Step]
    cache_clear_interval: int = 0
    cache_limit: float = math.inf

    def trends(self) -> Iterator[Trend | None]:
        """What the test says after each step."""
        test = GrowthTest(
            cache_clear_interval=self.cache_clear_interval, cache_limit=self.cache_limit
        )
        for number, (active, cache, process, heap) in enumerate(self.steps, start=1):
            yield test.add(number, active=active, cache=cache, process=process, heap=heap)

    def certain_at(self) -> int | None:
        """The first step, from 1, at which growth is certain."""
        return next((n for n, trend in enumerate(self.trends(), start=1) if trend), None)

    @property
    def has_heap(self) -> bool:
        return self.steps[0][3] is not None

    def without_heap(self) -> Trace:
        """The same where the heap is not read, as on macOS."""
        return replace(self, steps=[(*step[:3], None) for step in self.steps])

    def repeated(self, steps: int) -> Trace:
        """The same, its last 60 steps repeated until there are so many."""
        tail = self.steps[-60:] if len(self.steps) > 60 else self.steps[len(self.steps) // 2 :]
        times = max(0, math.ceil((steps - len(self.steps)) / len(tail)))
        return replace(self, steps=(self.steps + tail * times)[:steps])

    def growing(self, channel: str, mb_per_step: float, *, start: int, every: int = 1) -> Trace:
        """The same with growth in one channel from a step on, in lumps of ``every`` steps."""
        steps = []
        for number, (active, cache, process, heap) in enumerate(self.steps, start=1):
            more = int(max(0, number - start + 1) // every * every * mb_per_step * MB)
            steps.append(
                (
                    active + more * (channel == "active"),
                    cache,
                    None if process is None else process + more,
                    None if heap is None else heap + more * (channel == "heap"),
                )
            )
        return replace(self, steps=steps)


def simulated(seed: int) -> Trace:
    """A healthy run of random shape.

    Warm-up that saturates over 1 to 30 steps, autocorrelated noise of 3 KB to 3 MB, steps of the
    allocator of up to 64 MB, a cache that fills and is cleared and stays in the heap in part,
    lengths that vary (a batch longer than any before), validations and checkpoints whose first
    times cost most.
    """
    r = Random(seed)

    def spread(low: float, high: float) -> float:
        return math.exp(r.uniform(math.log(low), math.log(high)))

    steps = r.choice((150, 300, 600, 1000))
    active, base, transient = spread(0.2, 2000), spread(35, 400), spread(1, 300)
    ragged = r.random() < 0.6
    clears = r.choice((0, 1, 7, 10, 10, 10, 25, 50, 90))
    limit = min(r.choice((0, 20, 100, 100, 1000, 4000)), 100 if ragged and not clears else 4000)
    stays = r.choice((0, 0, 0.3, 0.7, 1.0))
    warm_up, tau = (spread(0.05, 40) if r.random() < 0.8 else 0.0), spread(1, 30)
    sigma, rho = (spread(0.003, 3) if r.random() < 0.7 else 0.0), r.choice((0, 0.5, 0.9, 0.98))
    jump_chance, highest = r.choice((0, 1, 2, 4, 8)) / 1000, spread(1, 64)
    events = [(r.choice((0, 20, 50, 100)), r.choice((0, 0, 0.5, 5))) for _ in range(2)]
    most_cache = transient * r.uniform(1.2, 3)
    cache = kept = noise = level = longest = 0.0
    found: list[Step] = []
    for step in range(1, steps + 1):
        size = transient * (r.uniform(0.05, 1) if ragged else 1)
        if size > longest:  # a batch longer than any before
            level += r.uniform(0, 0.15) * (size - longest) if longest else 0
            longest = size
        filled = max(0.0, size * (r.uniform(0.9, 1.05) if ragged else 1) - cache)
        if ragged:
            filled *= r.choice((1, 0.5, 0.2))
            if r.random() < 0.5:
                filled += r.uniform(0, 0.3) * max(0.0, most_cache - cache - filled)
        cache, before = min(limit, cache + filled), cache
        kept = max(0.0, kept - max(0.0, cache - before))
        level += r.uniform(0.02, 1) * highest if r.random() < jump_chance else 0
        level += sum(
            cost * r.random() / 2 ** (step // every)
            for every, cost in events
            if every and step % every == 0
        )
        noise = rho * noise + math.sqrt(1 - rho * rho) * r.gauss(0, sigma)
        outside = base + warm_up * (1 - math.exp(-step / tau)) + level + kept + abs(noise)
        held = active + (r.uniform(0, 0.02) if ragged else 0)
        process = int((active + cache + outside) * MB) // PAGE * PAGE
        found.append((int(held * MB), int(cache * MB), process, None))
        if clears and step % clears == 0:
            kept, cache = kept + stays * cache, 0.0
    return Trace(f"simulated {seed}", found, clears, limit * MB)


def packed(text: str) -> list[Trace]:
    """The traces in a file of tests: JSON, each column as its first value and the differences."""
    return [
        Trace(
            item["name"],
            _steps(*item["columns"]),
            item["cache_clear_interval"],
            item["cache_limit"],
        )
        for item in json.loads(text)
    ]


def _steps(
    active: list[int], cache: list[int], process: list[int], heap: list[int] | None
) -> list[Step]:
    heaps = [None] * len(active) if heap is None else accumulate(heap)
    return list(zip(accumulate(active), accumulate(cache), accumulate(process), heaps, strict=True))
