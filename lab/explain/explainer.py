"""The explainer of a worker process: baselines, a census once growth is certain, its explanation.

Everything that a census looks at is let go before it returns; what stays are numbers and names.
"""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import mlx.core as mx

from lab.explain import census, finders, python_heap
from lab.explain.census import Counts
from lab.explain.explanation import Explanation, Found, Measured, explanation
from lab.explain.finders import Look
from lab.explain.kinds import has_unknown_part, kind_of
from lab.explain.readings import Readings
from lab.explain.watch_calls import Calls
from lab.machine import process
from lab.protocol import Rung
from lab.records.growth import Trend

MOST_CENSUSES = 3  # a run
SHORTEST = 5  # steps between a baseline and a census
MOST_BASELINES = 4


class Reading(Protocol):
    """Memory after a step in bytes; see :class:`lab.train.memory.Reading`."""

    @property
    def active(self) -> int: ...
    @property
    def cache(self) -> int: ...
    @property
    def process(self) -> int | None: ...


class Explainer:
    """Explains growth to whom ``send`` reaches, at most three times a run.

    Arguments:
        calls: what was compiled and which streams were made, watched since the worker's start.
        send: gets the content of ``explain.json``.
        shared: MLX's memory is part of the process's, as it is everywhere but on CUDA.
        cache_is_cleared: now and then, so that its filling is no growth.
        warn: is told, once, of a census that failed; there is none after it.
    """

    def __init__(
        self,
        calls: Calls | None,
        send: Callable[[dict[str, Any]], None],
        *,
        shared: bool,
        cache_is_cleared: bool,
        warn: Callable[[str], None],
    ) -> None:
        self._calls, self._send, self._shared, self._warn = calls, send, shared, warn
        self._cache_is_cleared = cache_is_cleared
        self._failed = False
        self._first_step = 0  # of this worker's first explanation; later ones replace it
        self._test: Callable[[], object] = lambda: None  # for growth, of what is compared
        self._steps = 0
        self._next_census = 0
        self._baselines: list[Counts] = []
        self._readings = Readings()
        self._trace: python_heap.Trace | None = None
        self._sizes: dict[int, int] = {}  # of containers, when tracing began
        self._look: tuple[Look, int] | None = None  # with the step from which on it is counted

    def after_step(
        self,
        session: Any,
        step: int,
        reading: Reading,
        trend: Trend | None,
    ) -> Rung | None:
        """Take a baseline or a census where one is due.

        Arguments:
            trend: growth, where it is certain.

        Returns:
            The remedy of an explanation that is made at this step, where it is one for all growth.
        """
        if self._failed:
            return None
        try:
            return self._after_step(session, step, reading, trend)
        except BrokenPipeError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it met in the process, the run goes on
            self._failed = True
            self._begin(session)
            self._warn(f"memory is not explained: {type(error).__name__}: {error}")
            return None

    def _after_step(
        self, session: Any, step: int, reading: Reading, trend: Trend | None
    ) -> Rung | None:
        # A reload begins the test for growth anew, and a remedy: what grew before it may be gone.
        if self._test() is not session.growth:
            self._begin(session)
        self._steps += 1
        self._readings.add(
            step, active=reading.active, cache=reading.cache, process=reading.process
        )
        if self._trace is not None:
            return self._go_on_tracing(session, step)
        if trend is not None and self._is_due(session, step):
            return self._take_census(session, step, trend)
        if self._steps >= 2 and self._steps & (self._steps - 1) == 0:
            self._baselines.append(census.take(step, self._calls))
            del self._baselines[:-MOST_BASELINES]
        return None

    def _begin(self, session: Any) -> None:
        self._test = weakref.ref(session.growth)
        self._steps = 0
        self._baselines, self._readings = [], Readings()
        if self._trace is not None:
            self._trace.stop()
        self._trace, self._look, self._sizes = None, None, {}

    def _is_due(self, session: Any, step: int) -> bool:
        """Whether a census may be taken: not too soon after the first baseline, three a run."""
        done = session.progress.censuses or 0
        return (
            done < MOST_CENSUSES
            and bool(self._baselines)
            and step >= self._baselines[0].step + SHORTEST
            and step >= self._next_census
        )

    def _take_census(self, session: Any, step: int, trend: Trend) -> Rung | None:
        session.progress.censuses = (session.progress.censuses or 0) + 1
        self._next_census = 4 * step
        before, since = self._baseline(step, trend.since), trend.since
        start = since if before.step <= since <= step - SHORTEST else before.step
        found = finders.look(
            session,
            before,
            step - start,
            self._readings.slopes(start),
            trend,
            now=step,
            calls=self._calls,
            shared=self._shared,
            cache_is_cleared=self._cache_is_cleared,
            in_heap=memory_is_heap(),
        )
        if has_unknown_part(found.rates.certain):
            self._look, self._trace = (found, start), python_heap.Trace(step)
            self._sizes = census.container_sizes()
            return None
        return self._report(found, step, start)

    def _baseline(self, step: int, since: int) -> Counts:
        """The newest baseline from before the growth, or else the oldest."""
        old = [b for b in self._baselines if b.step <= min(max(since, 0), step - SHORTEST)]
        return old[-1] if old else self._baselines[0]

    def _go_on_tracing(self, session: Any, step: int) -> Rung | None:
        assert self._trace is not None
        assert self._look is not None
        found, start = self._look
        outside = found.rates.outside
        steps = python_heap.steps_to_trace(outside)
        grown = self._trace.after_step(step, steps, enough=outside / 2)
        if grown is None:
            return None
        rates = replace(found.rates, python=grown.bytes_per_step)
        steps = self._trace.steps + python_heap.REPLACED  # since sizes were taken
        least = finders.SIGNIFICANT * outside
        container = finders.grown_container(self._sizes, session, steps, least)
        self._trace, self._look, self._sizes = None, None, {}
        kinds = dict(found.found)
        for kind in ("python", "native"):
            one = kinds.get(kind, Found())
            kinds[kind] = container if one.holder is None and container.holder else one
            kinds[kind] = _with_lines(kinds[kind], grown, least)
        return self._report(Look(rates, kinds), step, start)

    def _report(self, found: Look, step: int, start: int) -> Rung | None:
        kind = kind_of(found.rates)
        grown = found.rates.certain.total * (step - start)
        self._first_step = self._first_step or step
        said = explanation(
            step, found.rates, found.found.get(kind, Found()), measure(), grown=grown
        )
        self._send(said | {"first_step": self._first_step})
        return Explanation.of(said).sole_remedy


def _with_lines(found: Found, grown: python_heap.PythonGrowth, least: float) -> Found:
    """What holds Python's objects, with the line that allocates most of them."""
    rows = [*grown.rows(), *found.what]
    if not grown.lines or grown.lines[0][1] < least:
        return replace(found, what=rows)
    line = grown.lines[0][0]
    if found.holder is None:
        return Found(line, "allocation", rows)
    return replace(found, holder=f"{found.holder}, allocated at {line}", what=rows)


def memory_is_heap() -> bool:
    """Whether MLX takes memory from the C heap: where it is built for Metal or CUDA it never does.

    Source: ``mlx::core::allocator::allocator()``, one of each build, whatever the device.
    """
    return not (mx.metal.is_available() or mx.cuda.is_available())


def measure() -> list[Measured]:
    """Try the remedies that drop no state, the cheaper one first."""
    return [
        _measured("clear_cache", mx.clear_cache),
        _measured("collect", _collect),
    ]


def _collect() -> int:
    unreachable = gc.collect()
    process.trim_heap()
    return unreachable


def _measured(remedy: str, act: Callable[[], int | None]) -> Measured:
    before = _memory()
    began = time.perf_counter()
    unreachable = act() or 0
    seconds = time.perf_counter() - began
    after = _memory()
    return Measured(
        remedy,
        process=before[0] - after[0],
        active=before[1] - after[1],
        cache=before[2] - after[2],
        seconds=seconds,
        unreachable=unreachable,
    )


def _memory() -> tuple[int, int, int]:
    """Bytes of the process, 0 where the system does not say, and of MLX's two counters."""
    return process.process_bytes() or 0, mx.get_active_memory(), mx.get_cache_memory()
