"""Leading a sweep: one process does, its jobs see whether it still lives."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from lab.config.schema import ConfigError
from lab.sweep.index import INDEX, JOB, Job, jobs_of

TRY_SECONDS = 0.5
LEAVING_SECONDS = 15.0  # for jobs to save and end once nobody leads them any more
TELLING_SECONDS = 1.0  # for a launcher's processes to tell so, if they still live


class Lead:
    """Being the one process that carries a sweep out, for as long as it lives.

    Raises:
        ConfigError: another process does.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._since = folder, time.time()
        self._fd: int | None = os.open(folder / INDEX, os.O_RDWR)
        last_try = time.monotonic() + TRY_SECONDS
        while not _lock(self._fd, fcntl.LOCK_EX):
            if time.monotonic() > last_try:
                os.close(self._fd)
                raise ConfigError("sweep", folder, "is still going on in another process")
            time.sleep(0.01)  # a job that looks whether it is led holds the lock for that moment

    def give_up(self) -> None:
        """Let every job stop, and wait until they have saved and ended; may be called again."""
        running = [
            folder
            for job, folder in jobs_of(self._folder)
            if job.exit_code is None and (folder / JOB).stat().st_mtime >= self._since
        ]
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        until = time.monotonic() + LEAVING_SECONDS
        while time.monotonic() < until and not all(map(_has_ended, running)):
            if not any(map(_is_held, running)):
                until = min(until, time.monotonic() + TELLING_SECONDS)
            time.sleep(0.1)


def hold(folder: Path) -> None:
    """Show that a job's process lives, for as long as it does."""
    with suppress(OSError):  # not every network's file system can
        _lock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX)


def _is_held(folder: Path) -> bool:
    try:
        fd = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    return not _can_share(fd)


def _has_ended(folder: Path) -> bool:
    job = Job.read(folder)
    return job is None or job.exit_code is not None


def is_led(folder: Path) -> bool:
    """Whether a process of this machine carries the sweep out now."""
    try:
        fd = os.open(folder / INDEX, os.O_RDWR)
    except OSError:
        return False
    return not _can_share(fd)


def _can_share(fd: int) -> bool:
    try:
        return _lock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
