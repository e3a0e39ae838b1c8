"""Write a run's files, the source of truth for every tracker, and lock them while it runs."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
from array import array
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.config.schema import ConfigError
from lab.machine import process
from lab.records.rows import METRIC_KEYS, decode, encode, finite, read_jsonl


class MetricsLost(RuntimeError):  # noqa: N818
    """A run's file cannot be written: its disk is full, or its folder is gone.

    Attributes:
        path: the file, which still holds whole lines only.
    """

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"cannot write {path}: {error.strerror or error}")
        self.path = path


class RunBusy(ConfigError):  # noqa: N818
    """Another process is writing the files of this run."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__("run", run_dir, "is still going on in another process")


class JsonLinesWriter:
    """Append-only writer of a JSON Lines file; after each ``append`` every line in it is whole.

    The file is locked (``flock``) while it is open. The lock ends with the process, however that
    ends, and a worker does not inherit it.

    Attributes:
        last: the last whole row when the file was opened; a partial line after it is truncated.

    Raises:
        MetricsLost: the file cannot be opened or written.
        RunBusy: it is open for writing elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            _lock(self._fd, path)
            self._size, self.last = _last_line(self._fd)
            if os.fstat(self._fd).st_size > self._size:
                os.ftruncate(self._fd, self._size)
        except OSError as error:
            raise MetricsLost(path, error) from error

    def append(self, row: Mapping[str, object]) -> None:
        """Write one line with one system call, so that a kill leaves all of it or none."""
        line = (encode(row) + "\n").encode()
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)  # a full disk takes half a line first
            raise MetricsLost(self.path, error) from error
        self._size += len(line)

    def fsync(self) -> None:
        """Wait until every line is on disk."""
        try:
            process.fsync(self._fd)
        except OSError as error:
            raise MetricsLost(self.path, error) from error

    def close(self) -> None:
        """Close the file and release its lock; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@dataclass(frozen=True, slots=True)
class Stored:
    """The result of writing a row: whether it was new, and the loss in the file for its step.

    Attributes:
        is_new: also the truth value of this object.
        loss: as first written, bit for bit; None where it is null (not finite).
    """

    is_new: bool
    loss: float | None

    def __bool__(self) -> bool:
        return self.is_new


class RunFiles:
    """The files of a run: one row per step, one per event, one summary at the end.

    Opening the folder of an earlier run continues its files: a partial last line is truncated.

    Attributes:
        last_step: the last step that has a row, 0 before the first.
        last_time: time of the last row or event at opening, in seconds since the run's start.

    Raises:
        MetricsLost: a file cannot be opened or written.
        RunBusy: another process is writing them.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._metrics = JsonLinesWriter(run_dir / "metrics.jsonl")
        self._events = JsonLinesWriter(run_dir / "events.jsonl")
        step = (self._metrics.last or {}).get("step", 0)
        self.last_step = step if isinstance(step, int) else 0
        times = [(file.last or {}).get("time") for file in (self._metrics, self._events)]
        self.last_time = max((float(t) for t in times if isinstance(t, int | float)), default=0.0)
        self._losses = None if self.last_step else array("d")

    def row(self, row: Mapping[str, object]) -> Stored:
        """Write the row of the next step; a replayed step keeps its first row.

        Raises:
            ValueError: a step between the last row and this one is missing.
        """
        step = row["step"]
        assert isinstance(step, int)
        if step <= self.last_step:
            return Stored(False, self._stored_loss(step))
        if step != self.last_step + 1:
            raise ValueError(f"row of step {step} after that of step {self.last_step}")
        self._metrics.append({**{key: row.get(key) for key in METRIC_KEYS}, **row})
        self.last_step = step
        loss = _loss(row)
        if self._losses is not None:
            self._losses.append(loss)
        return Stored(True, loss if math.isfinite(loss) else None)

    def _stored_loss(self, step: int) -> float | None:
        if self._losses is None:  # rows older than this object: read once, when first needed
            self._losses = array("d", map(_loss, read_jsonl(self._metrics.path)))
        loss = self._losses[step - 1]
        return loss if math.isfinite(loss) else None

    def event(self, event: Mapping[str, object]) -> None:
        self._events.append(event)

    def fsync(self) -> None:
        """Wait until every row and event is on disk."""
        self._metrics.fsync()
        self._events.fsync()

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write ``summary.json`` atomically."""
        path = self.run_dir / "summary.json"
        temporary = path.with_name("summary.json.tmp")
        text = json.dumps(finite(summary), indent=2, ensure_ascii=False) + "\n"
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                process.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise MetricsLost(path, error) from error

    def close(self) -> None:
        self._metrics.close()
        self._events.close()


def read_summary(run_dir: Path) -> dict[str, Any]:
    """Read ``summary.json``; empty for a run that has not ended.

    Raises:
        ConfigError: it cannot be read, or is no JSON object.
    """
    path = run_dir / "summary.json"
    try:
        summary = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError("run", path, f"cannot be read: {error}") from error
    if not isinstance(summary, dict):
        raise ConfigError("run", path, "cannot be read: it is no JSON object")
    return summary


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(fd)
            raise RunBusy(path.parent) from error
        # Some network file systems have no locks: no reason not to train there.


def check_idle(run_dir: Path) -> None:
    """Check that no process is writing the files of this run.

    Raises:
        RunBusy: one is.
    """
    path = run_dir / "metrics.jsonl"
    with suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunBusy(run_dir) from error


def _loss(row: Mapping[str, object]) -> float:
    loss = row.get("loss")
    return float(loss) if isinstance(loss, int | float) else math.nan


def _last_line(fd: int) -> tuple[int, dict[str, object] | None]:
    """Offset of the end of the last whole, valid line, and its row; searched from the end."""
    end = os.fstat(fd).st_size
    while end:
        start = _line_start(fd, end)
        row = decode(os.pread(fd, end - start, start))
        if row is not None:
            return end, row
        end = start
    return 0, None


def _line_start(fd: int, end: int, block: int = 4096) -> int:
    """Offset of the start of the line whose last byte, newline or not, is at ``end - 1``."""
    at = end - 1
    while at > 0:
        low = max(0, at - block)
        found = os.pread(fd, at - low, low).rfind(b"\n")
        if found >= 0:
            return low + found + 1
        at = low
    return 0
