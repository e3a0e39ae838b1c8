"""Memory of the system and of processes on this platform, in bytes; read at every step."""

from __future__ import annotations

import sys

if sys.platform == "darwin":
    from lab.machine.macos import (
        available_and_swap_bytes,
        core_count,
        memory_limit,
        process_bytes,
        process_bytes_of,
        trim_heap,
    )
else:
    from lab.machine.linux import (
        available_and_swap_bytes,
        core_count,
        memory_limit,
        process_bytes,
        process_bytes_of,
        trim_heap,
    )

__all__ = [
    "available_and_swap_bytes",
    "core_count",
    "memory_limit",
    "process_bytes",
    "process_bytes_of",
    "trim_heap",
]
