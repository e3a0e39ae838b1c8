"""Two processes in turns, a second each, so that whatever else the machine does hits both alike."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import psutil

TURN_S = 1.0


@dataclass
class Started:
    """A process that was started, and when it was let run.

    Attributes:
        folder: the one that it runs in.
        began: seconds since the epoch.
        spans: its turns, from and to, in the same unit; empty if it was never held.
    """

    process: subprocess.Popen[bytes]
    folder: Path
    began: float
    spans: list[tuple[float, float]] = field(default_factory=list)

    def intervals(self, times: Sequence[float]) -> list[float]:
        """Seconds from each time to the next, less those in which the process was held."""
        return [self._running(start, end) for start, end in pairwise(times)]

    def _running(self, start: float, end: float) -> float:
        if not self.spans:
            return end - start
        overlaps = (min(end, until) - max(start, since) for since, until in self.spans)
        return sum(overlap for overlap in overlaps if overlap > 0)


def take_turns(*sides: Started) -> None:
    """Let each run for a second while the others are held, until all have ended."""
    try:
        for side in sides:
            _signal_tree(side, signal.SIGSTOP)
            side.spans.append((side.began, time.time()))
        while waiting := [side for side in sides if side.process.poll() is None]:
            for side in waiting:
                _take_turn(side)
    except BaseException:  # a process that is held would stay for ever
        for side in sides:
            _signal_tree(side, signal.SIGKILL)
        raise


def _take_turn(side: Started) -> None:
    since = time.time()
    _signal_tree(side, signal.SIGCONT)
    with suppress(subprocess.TimeoutExpired):
        side.process.wait(TURN_S)
    _signal_tree(side, signal.SIGSTOP)
    side.spans.append((since, time.time()))


def _signal_tree(side: Started, number: signal.Signals) -> None:
    """Send a signal to a process and all below it, which may be in sessions of their own."""
    if side.process.poll() is not None:
        return  # its number may be another's by now
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(side.process.pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
