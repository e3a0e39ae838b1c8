"""What Python allocates over a few steps, by line: tracemalloc, on only while it is asked for."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from typing import Any

from lab.explain.paths import short_path

MOST_LINES = 5
REPLACED = 2  # traced steps that only replace what was there before: a batch is made a step ahead
LEAST_STEPS, MOST_STEPS = 3, 16
NOISE = 2**16  # bytes: a list that needs more room is moved, and counts as all new
OWN = ("lab/explain/", "tracemalloc.py")


def steps_to_trace(rate: float) -> int:
    """How many steps tell what of a growth of ``rate`` bytes a step is Python's: more if slow."""
    return max(LEAST_STEPS, min(MOST_STEPS, round(4 * NOISE / max(rate, 1.0))))


@dataclass(frozen=True)
class PythonGrowth:
    """Bytes a step that Python allocated and kept, and the lines that did, most first."""

    bytes_per_step: float
    lines: tuple[tuple[str, float], ...]

    def rows(self) -> list[dict[str, Any]]:
        return [{"line": line, "bytes_per_step": size} for line, size in self.lines]


class Trace:
    """Tracing from one step to another.

    The first traced steps only replace what was allocated before, so counting begins after them.

    Attributes:
        steps: counted so far.
    """

    def __init__(self, step: int) -> None:
        self._step, self.steps, self._traced = step + REPLACED, 0, 0
        self._before: dict[str, int] | None = None
        self._was_tracing = tracemalloc.is_tracing()
        if not self._was_tracing:
            tracemalloc.start(1)

    def after_step(self, step: int, steps: int, *, enough: float) -> PythonGrowth | None:
        """The growth once it is known; then tracing is off.

        Arguments:
            steps: to count at most.
            enough: bytes a step, from which on fewer do.
        """
        if step < self._step:
            return None
        traced = tracemalloc.get_traced_memory()[0]
        if self._before is None:
            self._before, self._traced = _by_line(), traced
            return None
        self.steps = step - self._step
        if self.steps < steps and traced - self._traced < max(enough * self.steps, NOISE):
            return None
        now, before = _by_line(), self._before
        self.stop()
        more = {line: (size - before.get(line, 0)) / self.steps for line, size in now.items()}
        more |= {line: -size / self.steps for line, size in before.items() if line not in now}
        lines = sorted(((line, size) for line, size in more.items() if size > 0), key=_by_size)
        return PythonGrowth(sum(more.values()), tuple(lines[:MOST_LINES]))

    def stop(self) -> None:
        if not self._was_tracing:
            tracemalloc.stop()
        self._before = None


def _by_size(found: tuple[str, float]) -> float:
    return -found[1]


def _by_line() -> dict[str, int]:
    """Bytes of what is alive and was allocated since tracing began, by ``file:line``."""
    sizes: dict[tuple[str, int], int] = {}
    # Raw tuples: wrapped ones, as in Snapshot.statistics(), take seconds for a million blocks.
    for _, size, frames, *_ in tracemalloc.take_snapshot().traces._traces:  # type: ignore[attr-defined]  # noqa: SLF001
        sizes[frames[0]] = sizes.get(frames[0], 0) + size
    lines = {f"{short_path(file)}:{number}": size for (file, number), size in sizes.items()}
    return {line: size for line, size in lines.items() if not any(own in line for own in OWN)}
