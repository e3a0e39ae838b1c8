"""Interleave processes, a second each, so that other load on the machine hits all sides alike."""

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

SLICE_S = 1.0


@dataclass
class StartedProcess:
    """A child process and the spans of time in which it was running.

    Attributes:
        folder: its working folder.
        began: its start in seconds since the epoch.
        spans: start and end of each time slice, in the same unit; empty if it was never stopped.
    """

    process: subprocess.Popen[bytes]
    folder: Path
    began: float
    spans: list[tuple[float, float]] = field(default_factory=list)

    def intervals(self, times: Sequence[float]) -> list[float]:
        """Seconds from each time to the next, without those in which the process was stopped."""
        return [self._running(start, end) for start, end in pairwise(times)]

    def _running(self, start: float, end: float) -> float:
        if not self.spans:
            return end - start
        overlaps = (min(end, until) - max(start, since) for since, until in self.spans)
        return sum(overlap for overlap in overlaps if overlap > 0)


def interleave(*sides: StartedProcess) -> None:
    """Let each run for ``SLICE_S`` while the others are stopped, until all have ended."""
    try:
        for side in sides:
            _signal_tree(side, signal.SIGSTOP)
            side.spans.append((side.began, time.time()))
        while waiting := [side for side in sides if side.process.poll() is None]:
            for side in waiting:
                _run_slice(side)
    except BaseException:  # a stopped process would stay for ever
        for side in sides:
            _signal_tree(side, signal.SIGKILL)
        raise


def _run_slice(side: StartedProcess) -> None:
    since = time.time()
    _signal_tree(side, signal.SIGCONT)
    with suppress(subprocess.TimeoutExpired):
        side.process.wait(SLICE_S)
    _signal_tree(side, signal.SIGSTOP)
    side.spans.append((since, time.time()))


def _signal_tree(side: StartedProcess, number: signal.Signals) -> None:
    """Send a signal to a process and its descendants, which may be in sessions of their own."""
    if side.process.poll() is not None:
        return  # its pid may be another process's by now
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(side.process.pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
