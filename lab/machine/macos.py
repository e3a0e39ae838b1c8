"""Memory and cores on macOS: the physical footprint from libproc, the rest from psutil."""

from __future__ import annotations

import ctypes
import functools
import os


class _RUsage(ctypes.Structure):
    """``rusage_info_v2`` of <sys/resource.h>, as far as it is needed."""

    _fields_ = [
        ("ri_uuid", ctypes.c_uint8 * 16),
        ("ri_user_time", ctypes.c_uint64),
        ("ri_system_time", ctypes.c_uint64),
        ("ri_pkg_idle_wkups", ctypes.c_uint64),
        ("ri_interrupt_wkups", ctypes.c_uint64),
        ("ri_pageins", ctypes.c_uint64),
        ("ri_wired_size", ctypes.c_uint64),
        ("ri_resident_size", ctypes.c_uint64),
        ("ri_phys_footprint", ctypes.c_uint64),
        ("rest", ctypes.c_uint64 * 32),  # room for what later systems add
    ]


@functools.cache
def _libproc() -> ctypes.CDLL:
    return ctypes.CDLL("/usr/lib/libproc.dylib", use_errno=True)


def process_bytes_of(pid: int) -> int:
    """Physical footprint of a process in bytes.

    It is what Activity Monitor shows and memory pressure is based on; RSS lacks Metal's buffers.

    Raises:
        ProcessLookupError: it is gone.
    """
    usage = _RUsage()
    if _libproc().proc_pid_rusage(pid, 2, ctypes.byref(usage)) != 0:
        raise ProcessLookupError(ctypes.get_errno(), f"no memory figures for process {pid}")
    return int(usage.ri_phys_footprint)


def process_bytes() -> int:
    """Physical footprint of this process in bytes."""
    return process_bytes_of(os.getpid())


def memory_limit() -> int:
    """Bytes of the machine's memory."""
    import psutil

    return int(psutil.virtual_memory().total)


def core_count() -> int:
    """Threads that can run at once."""
    return os.cpu_count() or 1


def available_and_swap_bytes() -> tuple[int, int]:
    """Bytes that this process can still allocate, and bytes of swap in use on the system."""
    import psutil

    return int(psutil.virtual_memory().available), int(psutil.swap_memory().used)


def trim_heap() -> None:
    """Do nothing: macOS reclaims freed heap itself."""
