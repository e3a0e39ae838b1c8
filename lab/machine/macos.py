"""Memory and cores on macOS, from libproc and sysctl; its disk and its sleep.

psutil's readings of the whole system fail on macOS 27 (before its version 8), whose kernel has a
larger structure for them; what is read here has had its size for twenty years.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import struct
import subprocess
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LIBPROC = "/usr/lib/libproc.dylib"
LIBSYSTEM = "/usr/lib/libSystem.B.dylib"
CAFFEINATE = "/usr/bin/caffeinate"
F_FULLFSYNC = 51  # of <sys/fcntl.h>


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
def _proc_pid_rusage() -> Callable[..., int]:
    function = ctypes.CDLL(LIBPROC, use_errno=True).proc_pid_rusage
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
    return function


@functools.cache
def _sysctlbyname() -> Callable[..., int]:
    function = ctypes.CDLL(LIBSYSTEM, use_errno=True).sysctlbyname
    size = ctypes.POINTER(ctypes.c_size_t)
    function.argtypes = (ctypes.c_char_p, ctypes.c_void_p, size, ctypes.c_void_p, ctypes.c_size_t)
    return function


def sysctl(name: str, size: int) -> bytes:
    """The value of a kernel's variable, of which at most ``size`` bytes are wanted.

    Raises:
        OSError: there is no such variable, or it is longer.
    """
    buffer, length = ctypes.create_string_buffer(size), ctypes.c_size_t(size)
    if _sysctlbyname()(name.encode(), buffer, ctypes.byref(length), None, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"sysctl {name}: {os.strerror(code)}")
    return buffer.raw[: length.value]


# --- Read at every step -------------------------------------------------------------------------


def _or_none(read: Callable[[], T]) -> T | None:
    """A figure, or None where the system does not give it: no reading may end a run."""
    try:
        return read()
    except (OSError, AttributeError, struct.error):  # AttributeError: the library lacks the name
        return None


def process_bytes_of(pid: int) -> int:
    """Physical footprint of a process in bytes.

    It is what Activity Monitor shows and memory pressure is based on; RSS lacks Metal's buffers.

    Raises:
        ProcessLookupError: it is gone.
    """
    usage = _RUsage()
    if _proc_pid_rusage()(pid, 2, ctypes.byref(usage)) != 0:
        raise ProcessLookupError(ctypes.get_errno(), f"no memory figures for process {pid}")
    return int(usage.ri_phys_footprint)


def process_bytes() -> int | None:
    """Physical footprint of this process in bytes; None where it cannot be read."""
    return _or_none(lambda: process_bytes_of(os.getpid()))


def peak_process_bytes() -> int | None:
    """None: the highest footprint counts from the start, so a step's own is not in it."""
    return None


def memory_limit() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def core_count() -> int:
    """Threads that can run at once."""
    return os.cpu_count() or 1


def available_bytes() -> int:
    """Bytes that could still be given to processes: the percentage that memory pressure goes by.

    Raises:
        OSError, struct.error: the system does not say.
    """
    (percent,) = struct.unpack("=i", sysctl("kern.memorystatus_level", 4))
    return memory_limit() * percent // 100


def swap_bytes() -> int:
    """Bytes of swap in use: the third of three sizes at the start of ``struct xsw_usage``.

    Raises:
        OSError, struct.error: the system does not say.
    """
    _total, _available, used = struct.unpack_from("=3Q", sysctl("vm.swapusage", 32))
    return used


def available_and_swap_bytes() -> tuple[int | None, int | None]:
    """Bytes that this process can still allocate, and bytes of swap in use on the system.

    Either is None where it cannot be read.
    """
    return _or_none(available_bytes), _or_none(swap_bytes)


class _MallocStatistics(ctypes.Structure):
    """``malloc_statistics_t`` of <malloc/malloc.h>."""

    _fields_ = [
        ("blocks_in_use", ctypes.c_uint),
        ("size_in_use", ctypes.c_size_t),
        ("max_size_in_use", ctypes.c_size_t),
        ("size_allocated", ctypes.c_size_t),
    ]


def heap_taken_bytes() -> int | None:
    """What all malloc zones have taken from the system, free pieces included; None if unknown.

    ``malloc_zone_statistics(NULL, ...)`` adds up every zone, as <malloc/malloc.h> documents.
    """
    found = _MallocStatistics()

    def read() -> int:
        ctypes.CDLL(LIBSYSTEM).malloc_zone_statistics(None, ctypes.byref(found))
        return found.size_allocated

    return _or_none(read)


def heap_holes_bytes() -> int | None:
    """None: macOS does not say."""
    return None


def trim_heap() -> None:
    """Do nothing: macOS reclaims freed heap itself."""


def heap_bytes() -> None:
    """None: what macOS says of it (``malloc_zone_statistics``) has not been tried."""


# --- The disk, and sleep ------------------------------------------------------------------------


def fsync(descriptor: int) -> None:
    """Wait until a file's content is on the disk; ``fsync`` alone leaves it in the drive's cache.

    Raises:
        OSError: it cannot be written.
    """
    try:
        fcntl.fcntl(descriptor, F_FULLFSYNC)
    except OSError:  # not every file system has it; what is wrong with the disk, fsync says too
        os.fsync(descriptor)


@functools.cache
def keep_awake() -> subprocess.Popen[bytes] | None:
    """Keep the system from idle sleep until this process ends, on mains power from any sleep.

    The display may sleep, and should: while it is on, macOS ends long computations.

    Returns:
        What holds the sleep off; None where that cannot be started.
    """
    try:
        return subprocess.Popen(
            [CAFFEINATE, "-i", "-s", "-w", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is not meant for it: the run is still to be saved
        )
    except OSError:
        return None
