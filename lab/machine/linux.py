"""Memory and cores on Linux, from ``/proc`` and cgroups (versions 1 and 2); glibc's heap."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import re
from collections.abc import Callable
from pathlib import Path

from lab.config.units import KB

NO_LIMIT = 2**60  # without a limit a cgroup reports "max", or a number above this


def parse_meminfo(text: bytes) -> dict[str, int]:
    """``/proc/meminfo`` in bytes, each value by its name."""
    pairs = (line.split(b":", 1) for line in text.splitlines() if line.endswith(b"kB"))
    return {name.decode(): int(value[:-2]) * KB for name, value in pairs}


def parse_limit(text: str) -> int | None:
    """A cgroup's memory limit in bytes, of either version; None where there is none."""
    word = text.strip()
    if not word.isdigit() or int(word) >= NO_LIMIT:
        return None
    return int(word)


def parse_quota(text: str) -> float | None:
    """Cores that ``cpu.max`` (``QUOTA PERIOD``) allows; None where it sets no limit."""
    quota, _, period = text.strip().partition(" ")
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return int(quota) / int(period)


def cgroup_folders(membership: str, controller: str, root: Path) -> list[Path]:
    """Folders of a controller that limit this process: its own cgroup and its ancestors.

    Arguments:
        membership: the text of ``/proc/self/cgroup``.
        controller: ``memory`` or ``cpu``.
        root: where cgroups are mounted, normally ``/sys/fs/cgroup``.
    """
    folders: list[Path] = []
    for line in membership.splitlines():
        number, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            base = root / controller
        elif number == "0" and not controllers:
            base = root  # version 2
        else:
            continue
        own = base / path.lstrip("/")
        # In a container the path may be the host's, and not exist: only the root remains then.
        folders += [f for f in (own, *own.parents) if f.is_relative_to(base) and f.is_dir()]
    return folders


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _memory_cgroups(root: Path = Path("/sys/fs/cgroup")) -> list[tuple[int, Path]]:
    """Each memory limit in bytes, with its cgroup's folder."""
    found = []
    for folder in cgroup_folders(_read(Path("/proc/self/cgroup")), "memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = parse_limit(_read(folder / name))
            if limit is not None:
                found.append((limit, folder))
    return found


def _cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    quotas = []
    for folder in cgroup_folders(_read(Path("/proc/self/cgroup")), "cpu", root):
        old = f"{_read(folder / 'cpu.cfs_quota_us').strip()} {_read(folder / 'cpu.cfs_period_us')}"
        quotas += [parse_quota(_read(folder / "cpu.max")), parse_quota(old)]
    return min((q for q in quotas if q), default=None)


def memory_limit() -> int:
    """Bytes that this process may use: the machine's memory or the lowest limit of a cgroup."""
    try:
        total = parse_meminfo(Path("/proc/meminfo").read_bytes())["MemTotal"]
    except (OSError, KeyError, ValueError):  # no /proc, as in some sandboxes
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([total, *(limit for limit, _ in _memory_cgroups())])


def core_count() -> int:
    """Threads that can run at once, after affinity and the cgroup's quota."""
    allowed, quota = len(os.sched_getaffinity(0)), _cpu_quota()
    return max(1, min(allowed, round(quota))) if quota else allowed


# --- Read at every step -------------------------------------------------------------------------


# No ``/proc``, a cgroup that has gone, a text unlike those known: no reading may end a run.
UNREADABLE = (OSError, ValueError, IndexError)


@functools.cache
def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def parse_statm(text: bytes, page: int) -> int:
    """Resident bytes from ``/proc/PID/statm``."""
    return int(text.split(None, 2)[1]) * page


_PAGE = os.sysconf("SC_PAGE_SIZE")


def process_bytes() -> int | None:
    """Resident memory of this process in bytes; None where it cannot be read."""
    try:
        return parse_statm(os.pread(_open("/proc/self/statm"), 128, 0), _PAGE)
    except UNREADABLE:
        return None


def peak_process_bytes() -> int | None:
    """The most that this process was ever resident with, in bytes; None where it is not told.

    Not ``getrusage``, whose figure begins with that of the process that started this one.
    """
    try:
        text = os.pread(_open("/proc/self/status"), 4096, 0)
        start = text.index(b"\nVmHWM:") + 7
        return int(text[start : text.index(b"kB", start)]) * KB
    except (*UNREADABLE, ValueError):
        return None


def process_bytes_of(pid: int) -> int:
    """Resident memory of another process in bytes.

    Raises:
        ProcessLookupError: it is gone.
    """
    try:
        return parse_statm(Path(f"/proc/{pid}/statm").read_bytes(), _PAGE)
    except OSError as error:
        raise ProcessLookupError(error.errno, f"no process {pid}") from error


def parse_available(text: bytes) -> tuple[int, int]:
    """Bytes available and bytes of swap in use, from the head of ``/proc/meminfo``.

    Each name is searched for: parsing the whole file line by line takes ten times as long.
    """

    def value(name: bytes) -> int:
        start = text.find(name)
        return 0 if start < 0 else int(text[start + len(name) : text.index(b"kB", start)]) * KB

    return value(b"\nMemAvailable:"), value(b"\nSwapTotal:") - value(b"\nSwapFree:")


@functools.cache
def _cgroup_files() -> list[tuple[int, int, int]]:
    """Each limit in bytes, with the descriptors of its usage and its statistics."""
    found = []
    for limit, folder in _memory_cgroups():
        names = (folder / "memory.current", folder / "memory.usage_in_bytes")
        usage = next((name for name in names if name.exists()), None)
        if usage is not None:
            found.append((limit, _open(str(usage)), _open(str(folder / "memory.stat"))))
    return found


def _cgroup_room(available: int, limit: int, usage: int, stat: int) -> int:
    room = limit - int(os.pread(usage, 64, 0))
    if room >= available:
        return available
    # Cached file pages count as used, though the kernel reclaims them under pressure.
    return max(0, min(available, room + parse_inactive(os.pread(stat, 8192, 0))))


def parse_inactive(stat: bytes) -> int:
    """Bytes of reclaimable file pages in a cgroup's ``memory.stat``."""
    for name in (b"total_inactive_file ", b"inactive_file "):  # version 1 with children, or 2
        start = stat.find(name)
        if start >= 0:
            return int(stat[start + len(name) :].split(None, 1)[0])
    return 0


def available_and_swap_bytes() -> tuple[int | None, int | None]:
    """Bytes that this process can still allocate, and bytes of swap in use on the system.

    Both are None where they cannot be read.
    """
    try:
        available, swap = parse_available(os.pread(_open("/proc/meminfo"), 2048, 0))
        for limit, usage, stat in _cgroup_files():
            available = _cgroup_room(available, limit, usage, stat)
    except UNREADABLE:
        return None, None
    return available, swap


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not


def trim_heap() -> None:
    """Return freed heap to the system; glibc keeps it otherwise."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


class _HeapInfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks in_use free keepcost".split()
    )


@functools.cache
def _malloc_info() -> Callable[[], _HeapInfo] | None:
    call = getattr(ctypes.CDLL(None), "mallinfo2", None)  # glibc from 2.33 has it
    if call is not None:
        call.restype, call.argtypes = _HeapInfo, ()
    return call


def heap_bytes() -> int | None:
    """What the C heap has given out and not got back; None where it does not say.

    What it keeps for later is not in it, so it is the same after each step, whereas the process's
    memory is not. The call looks at every free piece: some tens of microseconds, milliseconds where
    the heap is in many pieces.
    """
    call = _malloc_info()
    if call is None:
        return None
    info = call()
    return info.in_use + info.hblkhd


def heap_taken_bytes() -> int | None:
    """What the C heap has taken from the system, free pieces that it keeps included, or None."""
    call = _malloc_info()
    if call is None:
        return None
    info = call()
    return info.in_use + info.hblkhd + info.free


def heap_holes_bytes() -> int | None:
    """What is free on the C heap in pieces below a page, which no trim gives back; None if unknown.

    From glibc's ``malloc_info(3)``, which counts the free pieces of each size as XML. It takes as
    long as :func:`heap_bytes`.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_info"):
        return None
    text, size = ctypes.c_void_p(), ctypes.c_size_t()
    libc.open_memstream.restype = ctypes.c_void_p
    file = ctypes.c_void_p(libc.open_memstream(ctypes.byref(text), ctypes.byref(size)))
    failed = libc.malloc_info(0, file)
    libc.fclose(file)
    try:
        found = ctypes.string_at(text, size.value).decode()
    finally:
        libc.free(text)
    return None if failed else holes_of(found)


def holes_of(malloc_info: str) -> int:
    """Bytes in free pieces below a page, of all heaps, by what ``malloc_info(3)`` wrote."""
    sizes = re.findall(r'<size from="\d+" to="(\d+)" total="(\d+)"', malloc_info)
    return sum(int(total) for largest, total in sizes if int(largest) < mmap.PAGESIZE)


# --- The disk, and sleep ------------------------------------------------------------------------


def fsync(descriptor: int) -> None:
    """Wait until a file's content is on the disk.

    Raises:
        OSError: it cannot be written.
    """
    os.fsync(descriptor)


def keep_awake() -> None:
    """Do nothing: a Linux machine in use does not fall asleep by itself."""
