"""What a worker writes to its standard error: passed on as it comes, its end kept."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from threading import Thread
from typing import IO

KEPT_BYTES = 4096
END_SECONDS = 1.0  # for what is still in the pipe; a process that the worker left may hold it open


class LastWords:
    """Passes everything on to this process's standard error from a thread of its own.

    A native abort says why there and nowhere else.

    Arguments:
        source: the reading end of the worker's standard error.
    """

    def __init__(self, source: IO[bytes]) -> None:
        self._source, self._kept = source, b""
        self._thread = Thread(target=self._pass_on, daemon=True, name="stderr")
        self._thread.start()

    def text(self) -> str:
        """The last ``KEPT_BYTES`` of what was written; ask when the worker has ended."""
        self._thread.join(END_SECONDS)
        return self._kept.decode("utf-8", "replace")

    def _pass_on(self) -> None:
        with self._source:
            while chunk := os.read(self._source.fileno(), 1 << 16):
                self._kept = (self._kept + chunk)[-KEPT_BYTES:]
                _write_to_stderr(chunk)


def _write_to_stderr(chunk: bytes) -> None:
    if sys.__stderr__ is None:  # closed at the start: its number may be another file's by now
        return
    rest = memoryview(chunk)
    with suppress(OSError):  # the terminal is gone; the worker must not wait for a reader
        while rest:
            rest = rest[os.write(2, rest) :]
