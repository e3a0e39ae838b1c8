"""SIGINT, SIGTERM and SIGHUP as requests to stop a run."""

from __future__ import annotations

import math
import os
import signal
import time
from typing import Any, Self

from lab.protocol import Command
from lab.supervise.worker_process import WorkerProcess


class StopSignals:
    """Handles SIGINT, SIGTERM and SIGHUP while it is entered.

    The first signal is a request: the worker gets ``stop``, saves and ends. The second one kills
    the worker. SIGHUP never kills: when a terminal closes, it comes on top of an earlier signal.

    Attributes:
        exit_code: None until a signal came; then 130 for SIGINT, else 143.
        received_at: when the first one came, by ``time.monotonic``.
        killed_by: the second one, ``Ctrl-C`` or ``SIGTERM``, where a worker was killed for it.
    """

    HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self.received_at = math.inf
        self.killed_by = ""
        self._worker: WorkerProcess | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        try:
            for number in self.HANDLED:
                self._previous[number] = signal.signal(number, self._handle)
        except ValueError:  # not the main thread, where only the caller can handle signals
            pass
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def received(self) -> bool:
        return self.exit_code is not None

    def forward_to(self, worker: WorkerProcess | None) -> None:
        """Send requests to this worker from now on, also one that came before it was started."""
        self._worker = worker
        if worker is not None and self.received:
            worker.send(Command.STOP)

    def _handle(self, number: int, _: object) -> None:
        kills = self.received and number != signal.SIGHUP
        self.exit_code = self.exit_code or (130 if number == signal.SIGINT else 143)
        self.received_at = min(self.received_at, time.monotonic())
        if self._worker is not None:
            if kills:
                self.killed_by = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
                self._worker.kill()
            else:
                self._worker.send(Command.STOP)
        elif kills:
            os._exit(self.exit_code)  # every row is on file already
