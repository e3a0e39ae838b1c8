"""Write a run's files, the source of truth for every tracker, and lock them while it runs."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lab.config.schema import ConfigError, why_unreadable
from lab.machine import process
from lab.records.rows import METRIC_KEYS, decode, encode, finite

Row = dict[str, Any]
ROW_BEGINS, EVENT_BEGINS = b'{"step": ', b'{"event": '  # how each line of a file begins


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

    A file of an earlier run is read through :meth:`recover`, then cut by :meth:`cut_partial_line`,
    before the first ``append``.

    Raises:
        MetricsLost: the file cannot be opened.
        RunBusy: it is open for writing elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._size = path, 0
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            _lock(self._fd, path)
        except OSError as error:
            raise MetricsLost(path, error) from error

    def recover(self, is_own: Callable[[Row, int], bool], begins: bytes) -> Iterator[Row]:
        """Iterate over the rows in the file, up to what a kill or a power cut left of one more.

        Arguments:
            is_own: whether a row, at this line number, is one that this lab wrote.
            begins: how each of its lines begins.

        Raises:
            ConfigError: another line is not a row of this lab.
            MetricsLost: the file cannot be read.
        """
        self._size = 0
        try:
            with os.fdopen(os.dup(self._fd), "rb") as file:
                file.seek(0)
                for row, size in _whole_rows(file, self.path, is_own, begins):
                    self._size += size
                    yield row
        except OSError as error:
            raise MetricsLost(self.path, error) from error

    def cut_partial_line(self) -> None:
        """Cut what lies behind the rows that :meth:`recover` has read.

        Raises:
            MetricsLost: the file cannot be written.
        """
        try:
            if os.fstat(self._fd).st_size > self._size:
                os.ftruncate(self._fd, self._size)
        except OSError as error:
            raise MetricsLost(self.path, error) from error

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
        earlier: the events at opening, in their order.
        last_step: the last step that has a row, 0 before the first.
        last_time: time of the last row or event at opening, in seconds since the run's start.

    Raises:
        ConfigError: a line of theirs is none that this lab wrote; nothing is cut then.
        MetricsLost: a file cannot be opened or written.
        RunBusy: another process is writing them.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._losses = array("d")
        self._metrics = JsonLinesWriter(run_dir / "metrics.jsonl")
        try:
            self._events = JsonLinesWriter(run_dir / "events.jsonl")
        except BaseException:
            self._metrics.close()
            raise
        try:
            self._read_earlier()
        except BaseException:
            self.close()
            raise

    def _read_earlier(self) -> None:
        self.earlier = list(self._events.recover(_is_event, EVENT_BEGINS))
        last = self.earlier[-1] if self.earlier else {}
        times = [last.get("time")]
        for row in self._metrics.recover(_is_row_of_step, ROW_BEGINS):
            self._losses.append(_loss(row))
            times[1:] = [row.get("time")]
        for file in (self._events, self._metrics):  # once both are known to be the lab's own
            file.cut_partial_line()
        self.last_step = len(self._losses)
        self.last_time = max((float(t) for t in times if isinstance(t, int | float)), default=0.0)

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
        self._losses.append(loss)
        return Stored(True, loss if math.isfinite(loss) else None)

    def _stored_loss(self, step: int) -> float | None:
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
        write_json(self.run_dir / "summary.json", summary)

    def write_explanation(self, explanation: Mapping[str, object]) -> None:
        """Write ``explain.json`` atomically; a later one replaces it."""
        write_json(self.run_dir / "explain.json", explanation)

    def close(self) -> None:
        self._metrics.close()
        self._events.close()


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write one of a run's files atomically.

    Raises:
        MetricsLost: it cannot be written; what was there stays.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    text = json.dumps(finite(content), indent=2, ensure_ascii=False) + "\n"
    try:
        # A file's name in the content may be no text; escaped it is as valid in JSON.
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            process.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise MetricsLost(path, error) from error


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
        raise ConfigError("run", path, f"cannot be read: {why_unreadable(error)}") from error
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
        # Some network file systems and containers have no locks: no reason not to train there.


def check_idle(run_dir: Path) -> None:
    """Check that no process is writing the files of this run.

    Raises:
        RunBusy: one is.
    """
    path = run_dir / "metrics.jsonl"
    with suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise RunBusy(run_dir) from error
            # Without locks nobody can say.


def check_lines(run_dir: Path) -> None:
    """Check the rows and events of a run that no process has; half a last line is none.

    Raises:
        ConfigError: a line is not one that this lab wrote.
        OSError: a file cannot be read.
    """
    for name, is_own, begins in (
        ("metrics.jsonl", _is_row_of_step, ROW_BEGINS),
        ("events.jsonl", _is_event, EVENT_BEGINS),
    ):
        path = run_dir / name
        with suppress(FileNotFoundError), path.open("rb") as file:
            for _ in _whole_rows(file, path, is_own, begins):
                pass


def _whole_rows(
    file: IO[bytes], path: Path, is_own: Callable[[Row, int], bool], begins: bytes
) -> Iterator[tuple[Row, int]]:
    """The rows of a file with the bytes of each, as :meth:`JsonLinesWriter.recover` reads them."""
    for number, line in enumerate(file, 1):
        row = decode(line)
        if row is None or not is_own(row, number):
            if not _is_cut(line + file.read(), begins):
                raise _not_a_row(path, number, line)
            return
        yield row, len(line)


def _loss(row: Mapping[str, object]) -> float:
    loss = row.get("loss")
    return float(loss) if isinstance(loss, int | float) else math.nan


def _is_row_of_step(row: Row, number: int) -> bool:
    return type(row.get("step")) is int and row["step"] == number


def _is_event(row: Row, _: int) -> bool:
    named = isinstance(row.get("event"), str) and type(row.get("step")) is int
    return named and isinstance(row.get("environment", {}), dict)


def _is_cut(rest: bytes, begins: bytes) -> bool:
    """Whether a file's last bytes are what is left of one row: its begin, then perhaps zeros."""
    text = rest.rstrip(b"\n").rstrip(b"\0") if b"\0" in rest else rest
    return b"\n" not in text and (text.startswith(begins) or begins.startswith(text))


def _not_a_row(path: Path, number: int, line: bytes) -> ConfigError:
    shown = line[:60].decode(errors="replace").rstrip()
    found = repr(shown) if shown.isprintable() else "no text"
    return ConfigError(
        "run",
        f"{path}, line {number}",
        f"is not a line that this lab wrote: {found}; mend or remove it, or begin a new run",
    )
