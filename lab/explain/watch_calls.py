"""Calls of MLX that keep memory for ever: each trace of a compiled function, each new stream.

MLX calls the function that it compiles only to trace it, once for each new set of input shapes,
types and constants, and forgets no trace before what was compiled is dropped. So the function
itself is what is watched: a call that finds its trace costs nothing, and computes what it computed
before. Within another function's trace or gradient MLX calls it each time and keeps nothing; then
its inputs are still lazy, where those of a trace of its own are bare placeholders.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import mlx.core as mx

from lab.explain.graphs import is_lazy
from lab.explain.paths import short_path

STREAMS = ("new_stream", "new_thread_local_stream", "new_thread_unsafe_stream")
MOST_INPUTS = 400  # of a signature; a model's gradients have more, all of one kind


@dataclass(eq=False)
class Traces:
    """What MLX keeps of one call of ``mx.compile``, for as long as what it returned is alive.

    Attributes:
        kept: number of traces.
        seen: hashes of the signatures that it was called with.
    """

    kept: int = 0
    seen: set[int] = field(default_factory=set)


@dataclass
class Traced:
    """One compiled function.

    Attributes:
        name: ``function (file:line)`` of what was compiled.
        line: ``file:line`` that called ``mx.compile``.
        alive: of each time that it was compiled: a session that is built again does it anew.
        last: its newest inputs, as text by their place.
        changed: which of them differed from the trace before, the newest change first.
    """

    name: str
    line: str
    alive: WeakSet[Traces] = field(default_factory=WeakSet)
    last: dict[str, str] = field(default_factory=dict)
    changed: str = ""

    @property
    def traces(self) -> int:
        """How many MLX keeps of it."""
        return sum(traces.kept for traces in self.alive)


class Calls:
    """What was compiled and which streams were made since the watch began.

    Attributes:
        traced: every function compiled, by its name and the line that compiled it: one that is
            compiled anew at each step is one, whose traces go with it.
        streams: new streams by ``file:line`` of the caller.
    """

    def __init__(self) -> None:
        self.traced: dict[tuple[str, str], Traced] = {}
        self.streams: Counter[str] = Counter()

    @property
    def traces(self) -> int:
        return sum(traced.traces for traced in self.traced.values())


def watch() -> Calls:
    """Watch ``mx.compile`` and the makers of streams from now on, in this process."""
    calls = Calls()
    mx.compile = _watched_compile(mx.compile, calls)
    for name in STREAMS:
        if hasattr(mx, name):
            setattr(mx, name, _watched_stream(getattr(mx, name), calls))
    return calls


def unwatch() -> None:
    """Take the watch off again; what was compiled under it stays watched."""
    for name in ("compile", *STREAMS):
        original = getattr(getattr(mx, name, None), "__wrapped__", None)
        if original is not None:
            setattr(mx, name, original)


def _watched_compile(original: Any, calls: Calls) -> Any:
    @functools.wraps(original)
    def compiled(fun: Callable, *args: Any, **kwargs: Any) -> Any:
        key = _name(fun), _caller()
        traced = calls.traced.setdefault(key, Traced(*key))
        return original(_watched(fun, traced), *args, **kwargs)

    return compiled


def _watched(fun: Callable, traced: Traced) -> Callable:
    own = Traces()  # MLX holds it through ``trace``, and drops that with the traces
    traced.alive.add(own)

    def trace(*args: Any, **kwargs: Any) -> Any:
        signature = hash(_signature((args, kwargs)))
        if signature not in own.seen:
            own.seen.add(signature)
            _note(traced, own, args, kwargs)
        return fun(*args, **kwargs)

    return functools.update_wrapper(trace, fun)


def _note(traced: Traced, own: Traces, args: tuple, kwargs: dict) -> None:
    """Count a signature that was not seen before, unless it belongs to another trace."""
    inputs = dict(_inputs(args, kwargs))
    if any(is_lazy(value) for value in inputs.values() if isinstance(value, mx.array)):
        return
    own.kept += 1
    texts = {place: _text(value) for place, value in inputs.items()}
    if traced.last:
        traced.changed = _difference(traced.last, texts)
    traced.last = texts


def _signature(value: Any) -> Any:
    """What MLX keeps a trace for: shapes, types and constants, as something hashable."""
    kind = type(value)
    if kind is mx.array:
        return value.shape, value.dtype
    if isinstance(value, dict):
        return tuple((key, _signature(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_signature, value))
    return value if kind in (bool, int, float, str) else kind


def _watched_stream(original: Any, calls: Calls) -> Any:
    @functools.wraps(original)
    def stream(*args: Any, **kwargs: Any) -> Any:
        calls.streams[_caller()] += 1
        return original(*args, **kwargs)

    return stream


def _inputs(args: tuple, kwargs: dict) -> Iterator[tuple[str, Any]]:
    """Each array and each constant among the arguments, by its place."""
    rest: list[tuple[str, Any]] = [(f"argument {i + 1}", value) for i, value in enumerate(args)]
    rest += kwargs.items()
    for _ in range(MOST_INPUTS):
        if not rest:
            return
        place, value = rest.pop(0)
        if isinstance(value, dict):
            rest += [(f"{place}.{key}", item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            rest += [(f"{place}[{i}]", item) for i, item in enumerate(value)]
        elif isinstance(value, mx.array | bool | int | float | str):
            yield place, value


def _text(value: Any) -> str:
    if isinstance(value, mx.array):
        return f"{list(value.shape)} {str(value.dtype).rpartition('.')[2]}"
    return f"{value!r:.40}"


def _difference(before: dict[str, str], after: dict[str, str]) -> str:
    """What changed first, as ``argument 2: [4, 31] int32, before [4, 30] int32``."""
    for place, text in after.items():
        if before.get(place) != text:
            return f"{place}: {text}, before {before.get(place, 'absent')}"
    return "its captured inputs"


def _name(fun: Any) -> str:
    """A function's name and where it is defined."""
    inner = fun
    while isinstance(inner, functools.partial):
        inner = inner.func
    code = getattr(inner, "__code__", None)
    name = getattr(inner, "__qualname__", type(inner).__name__)
    return (
        name if code is None else f"{name} ({short_path(code.co_filename)}:{code.co_firstlineno})"
    )


def _caller() -> str:
    """``file:line`` of the code that called the watched function."""
    frame = sys._getframe(2)  # noqa: SLF001 - inspect.stack() reads every source file
    while frame.f_back is not None and frame.f_code.co_filename in (__file__, functools.__file__):
        frame = frame.f_back
    return f"{short_path(frame.f_code.co_filename)}:{frame.f_lineno}"
