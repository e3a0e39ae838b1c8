"""What this machine has, and what a process on it uses: all code that depends on the platform.

``python -m lab.machine`` prints the machine as JSON. The process that composes and supervises a run
asks such a short-lived child (:func:`probe_machine`), because it never imports MLX itself.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lab.config.units import GB, KB

BUDGET_SHARE = 0.8  # of the memory; the rest is for the system and what MLX does not count
NO_LIMIT = 2**60  # a cgroup without a limit says "max" or a number above this

BLAS_HINT = (
    "MLX computes with its slow built-in BLAS; training is 20 times faster with OpenBLAS: "
    "sudo apt-get install libopenblas0"
)


class ProbeError(RuntimeError):
    """The child that looks at the machine failed; the text says how."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One computer, as far as one process may use it.

    Attributes:
        backend: what MLX computes with: ``cpu``, ``metal`` or ``cuda``.
        cores: threads that can run at once, after affinity and the cgroup's quota.
        memory_bytes: memory that the process may use: the machine's or its cgroup's on the CPU,
            unified memory on Metal, the device's on CUDA.
        budget_bytes: how much of it training should take at most.
    """

    system: str
    architecture: str
    backend: str
    device_name: str
    cores: int
    memory_bytes: int
    budget_bytes: int

    @property
    def memory_gb(self) -> float:
        return round(self.memory_bytes / GB, 2)

    @property
    def budget_gb(self) -> float:
        return round(self.budget_bytes / GB, 2)

    def share(self, jobs: int) -> Machine:
        """What one of ``jobs`` that run side by side may use: its part of the budget and cores."""
        return replace(
            self, cores=max(1, self.cores // jobs), budget_bytes=self.budget_bytes // jobs
        )


# --- The machine --------------------------------------------------------------------------------


def describe(
    backend: str,
    info: Mapping[str, Any],
    *,
    memory: int,
    cores: int,
    system: str,
    architecture: str,
) -> Machine:
    """Build a Machine from ``mx.device_info()``, whose keys differ between backends and versions.

    Arguments:
        memory: bytes that the system gives this process, for where the device has none of its own.
    """
    total = int(info.get("total_memory") or info.get("memory_size") or memory)
    if backend == "cpu":
        total = memory
    elif backend == "metal":
        total = min(total, memory)
    budget = int(BUDGET_SHARE * total)
    if backend == "metal":
        budget = int(info.get("max_recommended_working_set_size") or budget)
    return Machine(
        system=system,
        architecture=architecture,
        backend=backend,
        device_name=str(info.get("device_name") or info.get("architecture") or architecture),
        cores=cores,
        memory_bytes=total,
        budget_bytes=budget,
    )


def read_machine() -> Machine:
    """Look at this machine in this process; imports MLX, and on CUDA makes a context."""
    import mlx.core as mx

    backend = next((b for b in ("metal", "cuda") if _is_available(mx, b)), "cpu")
    device_info = getattr(mx, "device_info", None) or mx.metal.device_info
    return describe(
        backend,
        device_info(),
        memory=_memory_limit(),
        cores=_cores(),
        system=platform.system(),
        architecture=platform.machine(),
    )


def _is_available(mx: Any, backend: str) -> bool:
    module = getattr(mx, backend, None)
    return module is not None and bool(module.is_available())


def _memory_limit() -> int:
    if sys.platform == "linux":
        total = int(parse_meminfo(Path("/proc/meminfo").read_bytes())["MemTotal"])
        return min([total, *(limit for limit, _ in _memory_cgroups())])
    import psutil

    return int(psutil.virtual_memory().total)


def _cores() -> int:
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    quota = _cpu_quota() if sys.platform == "linux" else None
    return max(1, min(allowed, round(quota))) if quota else allowed


# --- Linux: /proc and cgroups -------------------------------------------------------------------


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
    """Folders of a controller that rule this process: its own cgroup and those above it.

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
        # A container may see the path of the host, which is not there for it: then only the root.
        folders += [f for f in (own, *own.parents) if f.is_relative_to(base) and f.is_dir()]
    return folders


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _memory_cgroups(root: Path = Path("/sys/fs/cgroup")) -> list[tuple[int, Path]]:
    """Each limit in bytes with its folder."""
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


# --- Asking from a process that must not import MLX ---------------------------------------------


@functools.lru_cache(maxsize=1)
def start_probe() -> subprocess.Popen[str]:
    """Start the child that looks at the machine, for :func:`probe_machine` to wait for later."""
    # -P and the path instead of -m: works from any folder, and lab/ does not shadow other modules.
    command = [sys.executable, "-P", __file__]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


_known: list[Machine] = []


def know_machine(machine: Machine) -> None:
    """Take for this process what another one has asked on the same machine."""
    _known[:] = [machine]


def probe_machine() -> Machine:
    """What this machine has, as a child process found it; asked once.

    Raises:
        ProbeError: MLX is missing or cannot be loaded, or the child gave no answer in a minute.
    """
    answer = _known[0] if _known else _answer()
    if isinstance(answer, ProbeError):
        raise answer
    return answer


@functools.lru_cache(maxsize=1)
def _answer() -> Machine | ProbeError:
    child = start_probe()
    try:
        out, err = child.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        child.kill()
        return ProbeError("the look at this machine took more than 60 s")
    return parse_answer(out, err)


def parse_answer(out: str, err: str) -> Machine | ProbeError:
    """The machine that a probe printed, or what its last line of complaint was."""
    try:
        return Machine(**json.loads(out))
    except (ValueError, TypeError):
        reason = (err.strip().splitlines() or ["no answer"])[-1]
        return ProbeError(f"MLX does not load in {sys.executable}: {reason}")


# --- A process's own memory, read at every step -------------------------------------------------


@functools.cache
def _open(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def parse_statm(text: bytes, page: int) -> int:
    """Resident bytes from ``/proc/PID/statm``."""
    return int(text.split(None, 2)[1]) * page


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


def _footprint(pid: int) -> int:
    # Activity Monitor's figure and what the system acts on; RSS leaves Metal's buffers out.
    usage = _RUsage()
    if _libproc().proc_pid_rusage(pid, 2, ctypes.byref(usage)) != 0:
        raise ProcessLookupError(ctypes.get_errno(), f"no memory figures for process {pid}")
    return int(usage.ri_phys_footprint)


if sys.platform == "linux":
    _PAGE = os.sysconf("SC_PAGE_SIZE")

    def process_bytes() -> int:
        """Memory of this process in bytes: resident on Linux, physical footprint on macOS."""
        return parse_statm(os.pread(_open("/proc/self/statm"), 128, 0), _PAGE)

    def process_bytes_of(pid: int) -> int:
        """The same of another process; raises ProcessLookupError when it is gone."""
        try:
            resident = parse_statm(Path(f"/proc/{pid}/statm").read_bytes(), _PAGE)
        except OSError as error:
            raise ProcessLookupError(error.errno, f"no process {pid}") from error
        return resident

elif sys.platform == "darwin":

    def process_bytes() -> int:
        """Memory of this process in bytes: resident on Linux, physical footprint on macOS."""
        return _footprint(os.getpid())

    process_bytes_of = _footprint

else:

    def process_bytes() -> int:
        """Memory of this process in bytes: resident on Linux, physical footprint on macOS."""
        return process_bytes_of(os.getpid())

    def process_bytes_of(pid: int) -> int:
        """The same of another process; raises ProcessLookupError when it is gone."""
        import psutil

        try:
            return int(psutil.Process(pid).memory_info().rss)
        except psutil.NoSuchProcess as error:
            raise ProcessLookupError(f"no process {pid}") from error


def parse_available(text: bytes) -> tuple[int, int]:
    """Bytes available and bytes of swap in use, from the head of ``/proc/meminfo``.

    Each is searched by itself: reading the whole file line by line takes ten times as long.
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
    # Files' pages count as used, though the kernel drops them when it needs room.
    return max(0, min(available, room + parse_inactive(os.pread(stat, 8192, 0))))


def parse_inactive(stat: bytes) -> int:
    """File pages in a cgroup's ``memory.stat`` that the kernel takes back when it needs room."""
    for name in (b"total_inactive_file ", b"inactive_file "):  # version 1 with children, or 2
        start = stat.find(name)
        if start >= 0:
            return int(stat[start + len(name) :].split(None, 1)[0])
    return 0


def available_and_swap_bytes() -> tuple[int, int]:
    """Bytes that a process here can still get, and bytes of swap in use on the system."""
    if sys.platform == "linux":
        available, swap = parse_available(os.pread(_open("/proc/meminfo"), 2048, 0))
        for limit, usage, stat in _cgroup_files():
            available = _cgroup_room(available, limit, usage, stat)
        return available, swap
    import psutil

    return int(psutil.virtual_memory().available), int(psutil.swap_memory().used)


# --- Heap and BLAS ------------------------------------------------------------------------------


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not


def trim_heap() -> None:
    """Give freed heap back to the system, where the C library keeps it otherwise (glibc)."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def preload_blas() -> str | None:
    """Load OpenBLAS so that MLX's CPU backend calls it; must come before ``import mlx.core``.

    Returns:
        Its version, kernel and threads, or None where it is not there or not needed. Never raises.
    """
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return None
    try:
        library.openblas_get_config.restype = ctypes.c_char_p
        return str(library.openblas_get_config().decode()).strip()
    except (AttributeError, UnicodeDecodeError):
        return "OpenBLAS"


if __name__ == "__main__":
    print(json.dumps(asdict(read_machine()), indent=2))
