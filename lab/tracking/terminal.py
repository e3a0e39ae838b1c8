"""A terminal that is closed while a command runs: what is written to it is lost, and no error."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO

GONE = (errno.EIO, errno.ENXIO)  # a terminal without its other end


def outlive_terminal() -> None:
    """Let standard streams that are a terminal take every write, also once it is closed.

    SIGHUP says that it is, but a write that comes first would end a run, or a sweep, as a fault.
    """
    sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)


def write_nowhere() -> None:
    """Lose what is printed from now on: the reader of the pipe has left, as ``head`` does.

    Python flushes the standard output at exit, which would raise again.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _lasting(stream: TextIO) -> TextIO:
    if not isinstance(stream, io.TextIOWrapper) or not stream.isatty():
        return stream
    if isinstance(getattr(stream.buffer, "raw", None), _Terminal):
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Terminal(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=True,
    )


class _Terminal(io.FileIO):
    """Writes to a terminal; from its end on to nothing, as do this process's children."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in GONE:
                raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        return super().write(data)
