"""Lazy arrays: which there are and how many operations hang on each, without evaluating any.

A lazy array holds its inputs in C++, where Python's collector cannot see them, so what a chain of
them keeps alive is found by the chain's end alone.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

AT_ONCE = 1000  # MLX takes at most 1,024 named arrays a call
COUNTED = 200_000  # operations: each end counts all of its own, and many may share theirs
STACK_BYTES = 512 << 20  # MLX walks a graph recursively: 200,000 operations overrun 8 MB

_FROM = re.compile(r'^"([^"]+)" -> (\d+)$', re.MULTILINE)
_TO = re.compile(r'^(\d+) -> "([^"]+)"$', re.MULTILINE)


@dataclass(frozen=True)
class Lazy:
    """The lazy ones among some arrays.

    Attributes:
        ids: of all of them.
        ends: those that no other of the ``AT_ONCE`` beside it is computed from, each with the
            number of operations that it waits for, the longest first. Once ``COUNTED`` operations
            were gone through, of the newest ends, each of the older ones counts as one.
    """

    ids: set[int]
    ends: list[tuple[mx.array, int]]


def lazy_arrays(arrays: Sequence[mx.array]) -> Lazy:
    """Find the lazy arrays, however deep their graphs are.

    Arguments:
        arrays: roughly the oldest first.

    Raises:
        RuntimeError: MLX could not tell.
    """
    found, failed = Lazy(set(), []), []

    def look() -> None:
        try:
            for start in reversed(range(0, len(arrays), AT_ONCE)):
                _look(arrays[start : start + AT_ONCE], found)
        except Exception as error:  # noqa: BLE001 - a thread would print it
            failed.append(f"{type(error).__name__}: {error}")  # the error itself would hold arrays

    before = threading.stack_size(STACK_BYTES)
    try:
        thread = threading.Thread(target=look, name="lazy graphs")
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    if failed:
        raise RuntimeError(failed[0])
    found.ends.sort(key=lambda end: -end[1])
    return found


def _look(arrays: Sequence[mx.array], found: Lazy) -> None:
    text = io.StringIO()
    mx.export_to_dot(text, **{f"a{i}": array for i, array in enumerate(arrays)})
    graph = text.getvalue()
    if "label" not in graph:
        return
    inputs: dict[str, list[str]] = {}  # of an operation
    for name, operation in _FROM.findall(graph):
        inputs.setdefault(operation, []).append(name)
    made_by = {name: operation for operation, name in _TO.findall(graph)}
    used = {name for names in inputs.values() for name in names}
    left = COUNTED - sum(length for _, length in found.ends)
    for i, array in reversed(list(enumerate(arrays))):
        if f"a{i}" in made_by:
            found.ids.add(id(array))
            if f"a{i}" not in used:
                length = _operations(f"a{i}", made_by, inputs) if left > 0 else 1
                left -= length
                found.ends.append((array, length))


def is_lazy(array: mx.array) -> bool:
    """Whether an array is still to be computed; for one whose graph is not deep."""
    text = io.StringIO()
    mx.export_to_dot(text, array)
    return "label" in text.getvalue()


def _operations(name: str, made_by: dict[str, str], inputs: dict[str, list[str]]) -> int:
    """How many operations an array is computed by."""
    seen: set[str] = set()
    rest = [name]
    while rest:
        operation = made_by.get(rest.pop())
        if operation is not None and operation not in seen:
            seen.add(operation)
            rest += inputs.get(operation, ())
    return len(seen)
