"""The lease on a sweep: one process holds it and runs the sweep; its jobs see whether it lives.

Both are file locks (``flock``), which the system releases when a process dies, however it dies.
Some network file systems and containers have none: there a sweep is taken for leased and its jobs
for alive, so that nothing ends because it cannot be asked for.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from lab.config.schema import ConfigError
from lab.sweep.index import INDEX_FILE, JOB_FILE, Job, jobs_of

ACQUIRE_SECONDS = 0.5
STOP_SECONDS = 15.0  # for jobs to save and end once the lease is released
REPORT_SECONDS = 1.0  # for launchers' processes to write their jobs' exit codes, if they still live


class SweepLease:
    """An exclusive lock on a sweep's index, held until :meth:`release` or the process's end.

    Attributes:
        folder: the sweep's.

    Raises:
        ConfigError: another process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._since = folder, time.time()
        self._fd: int | None = os.open(folder / INDEX_FILE, os.O_RDWR)
        deadline = time.monotonic() + ACQUIRE_SECONDS
        while _lock(self._fd, fcntl.LOCK_EX) is False:
            if time.monotonic() > deadline:
                os.close(self._fd)
                raise ConfigError("sweep", folder, "is still going on in another process")
            time.sleep(0.01)  # a job that calls is_leased() holds the lock for that moment

    def release(self) -> None:
        """Make every job stop, and wait until they have saved and ended; may be called again."""
        running = [
            folder
            for job, folder in jobs_of(self.folder)
            if job.exit_code is None and (folder / JOB_FILE).stat().st_mtime >= self._since
        ]
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        until = time.monotonic() + STOP_SECONDS
        while time.monotonic() < until and not all(map(_has_ended, running)):
            if not any(map(_is_alive, running)):
                until = min(until, time.monotonic() + REPORT_SECONDS)
            time.sleep(0.1)


def is_leased(folder: Path) -> bool:
    """Whether a process of this machine runs the sweep in ``folder`` now."""
    try:
        fd = os.open(folder / INDEX_FILE, os.O_RDWR)
    except OSError:
        return False
    return _is_locked(fd)


def mark_alive(job: Path) -> None:
    """Lock a job's folder for as long as this process lives."""
    with suppress(OSError):
        _lock(os.open(job, os.O_RDONLY), fcntl.LOCK_EX)


def _is_alive(job: Path) -> bool:
    try:
        fd = os.open(job, os.O_RDONLY)
    except OSError:
        return False
    return _is_locked(fd)


def _has_ended(folder: Path) -> bool:
    job = Job.read(folder)
    return job is None or job.exit_code is not None


def _is_locked(fd: int) -> bool:
    try:
        return not _lock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def _lock(fd: int, kind: int) -> bool | None:
    """Whether the lock was free; None where there are no locks."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
