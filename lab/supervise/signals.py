"""SIGINT, SIGTERM and SIGHUP as requests to stop a run."""

from __future__ import annotations

import os
import signal
from typing import Any, Self

from lab.supervise.worker_process import WorkerProcess


class Signals:
    """SIGINT, SIGTERM and SIGHUP as wishes: the first one asks the run to stop, the second insists.

    SIGHUP never insists: where a terminal goes away, it comes on top of whatever was wished before.

    Attributes:
        exit_code: None until a signal came; then 130 for SIGINT, else 143.
    """

    HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self._worker: WorkerProcess | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        try:
            for number in self.HANDLED:
                self._previous[number] = signal.signal(number, self._handle)
        except ValueError:  # not the main thread: whoever runs us there handles its signals
            pass
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def watch(self, worker: WorkerProcess | None) -> None:
        """Pass wishes on to this worker from now on, also one that came while there was none."""
        self._worker = worker
        if worker is not None and self.exit_code is not None:
            worker.tell("stop")

    def _handle(self, number: int, _: object) -> None:
        insisting = self.exit_code is not None and number != signal.SIGHUP
        self.exit_code = self.exit_code or (130 if number == signal.SIGINT else 143)
        if self._worker is not None:
            if insisting:
                self._worker.kill()
            else:
                self._worker.tell("stop")
        elif insisting:
            os._exit(self.exit_code)  # every row is on file already
