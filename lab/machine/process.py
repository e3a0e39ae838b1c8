"""What differs between platforms: memory of the system and of processes, the disk, sleep."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

if sys.platform == "darwin":
    from lab.machine.macos import (
        available_and_swap_bytes,
        core_count,
        fsync,
        heap_bytes,
        heap_holes_bytes,
        heap_taken_bytes,
        keep_awake,
        memory_limit,
        peak_process_bytes,
        process_bytes,
        process_bytes_of,
        trim_heap,
    )
else:
    from lab.machine.linux import (
        available_and_swap_bytes,
        core_count,
        fsync,
        heap_bytes,
        heap_holes_bytes,
        heap_taken_bytes,
        keep_awake,
        memory_limit,
        peak_process_bytes,
        process_bytes,
        process_bytes_of,
        trim_heap,
    )

__all__ = [
    "available_and_swap_bytes",
    "core_count",
    "fsync",
    "has_ended",
    "heap_bytes",
    "heap_holes_bytes",
    "heap_taken_bytes",
    "keep_awake",
    "memory_limit",
    "peak_process_bytes",
    "process_bytes",
    "process_bytes_of",
    "trim_heap",
]


def has_ended(child: int) -> bool:
    """Whether a child process has ended; it stays a zombie, and its number its own."""
    if hasattr(os, "waitid"):  # on macOS from Python 3.13 on; it needs no /proc
        try:
            return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True
    import psutil  # here: neither a start nor a worker has to wait for it

    with suppress(psutil.Error):
        return psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    return True
