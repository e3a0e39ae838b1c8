"""What differs between platforms: memory of the system and of processes, the disk, sleep."""

from __future__ import annotations

import sys
from contextlib import suppress

if sys.platform == "darwin":
    from lab.machine.macos import (
        available_and_swap_bytes,
        core_count,
        fsync,
        heap_bytes,
        heap_taken_bytes,
        keep_awake,
        memory_limit,
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
        heap_taken_bytes,
        keep_awake,
        memory_limit,
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
    "heap_taken_bytes",
    "keep_awake",
    "memory_limit",
    "process_bytes",
    "process_bytes_of",
    "trim_heap",
]


def has_ended(child: int) -> bool:
    """Whether a child process has ended; it stays a zombie, and its number its own."""
    import psutil  # here: neither a start nor a worker has to wait for it

    with suppress(psutil.Error):
        return psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    return True
