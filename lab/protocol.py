"""The worker's line to its supervisor: records out over a pipe, words in over standard input.

What it says last is its exit code, an :class:`Outcome`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from enum import IntEnum

ABANDONED_EXIT = 70
GRACE_S = 3.0


class Outcome(IntEnum):
    """Why the loop was left; a worker's exit code."""

    FINISHED = 0
    FAILED = 1
    BAD_CONFIG = 2
    RELOAD = 64
    STOPPED = 65
    NONFINITE = 66
    UNSAVED = 67


class Channel:
    """Sends records, one JSON object a line; hears a few words, one a line.

    ``go <step>``: train, from the newest checkpoint up to that step. ``committed <step>``: every
    row up to it is on file. ``reload``: leave at a checkpoint for another process. ``stop``.

    A daemon thread reads standard input; ``mx.eval`` releases the GIL, so it runs while a step
    does. End of file means that the supervisor is gone: the worker stops at its next step, and is
    ended hard after ``GRACE_S`` if none comes.
    """

    def __init__(self, descriptor: int) -> None:
        self._out = descriptor
        self._held: tuple[str, dict[str, object]] | None = None
        self._heard = threading.Condition()
        self._go: int | None = None
        self._committed = -1
        self.stopping = False
        self.over_budget = False
        self.abandoned = False
        threading.Thread(target=self._listen, daemon=True, name="supervisor").start()

    def send(self, kind: str, **fields: object) -> None:
        """Send one record, after the one that is held back.

        Raises:
            BrokenPipeError: the supervisor is gone.
        """
        self.flush()
        self._write(kind, fields)

    def hold(self, kind: str, **fields: object) -> None:
        """Keep one record until the next one or :meth:`flush`.

        Sending wakes the supervisor, which may take the worker's core: better while the device is
        busy than between two steps.
        """
        self.flush()
        self._held = kind, fields

    def flush(self) -> None:
        """Send what is held back.

        Raises:
            BrokenPipeError: the supervisor is gone.
        """
        if self._held is not None:
            held, self._held = self._held, None
            self._write(*held)

    def _write(self, kind: str, fields: dict[str, object]) -> None:
        rest = memoryview(json.dumps({"kind": kind, **fields}).encode() + b"\n")
        while rest:
            rest = rest[os.write(self._out, rest) :]

    def event(self, event: str, step: int, **fields: object) -> None:
        """Send one row of ``events.jsonl``."""
        self.send("event", event=event, step=step, **fields)

    def wait_for_go(self) -> int:
        """Return the newest step to go on from, once this worker is the one that is to train.

        Raises:
            BrokenPipeError: it is not needed.
        """
        with self._heard:
            self._heard.wait_for(lambda: self._go is not None or self.stopping)
            if self._go is None:
                raise BrokenPipeError("this worker is not needed")
            return self._go

    def wait_until_written(self, step: int) -> None:
        """Return once the supervisor has every row up to ``step`` on file.

        Raises:
            BrokenPipeError: the supervisor is gone, so a checkpoint must not outrun its rows.
        """
        self.send("commit", step=step)
        with self._heard:
            self._heard.wait_for(lambda: self._committed >= step or self.abandoned)
            if self._committed < step:
                raise BrokenPipeError("the supervisor is gone")

    def _listen(self) -> None:
        for line in sys.stdin:
            word, _, argument = line.strip().partition(" ")
            with self._heard:
                if word == "go":
                    self._go = int(argument)
                elif word == "committed":
                    self._committed = int(argument)
                elif word == "stop":
                    self.stopping = True
                elif word == "reload":
                    self.over_budget = True
                self._heard.notify_all()
        with self._heard:
            self.abandoned = self.stopping = True
            self._heard.notify_all()
        timer = threading.Timer(GRACE_S, os._exit, (ABANDONED_EXIT,))
        timer.daemon = True
        timer.start()
