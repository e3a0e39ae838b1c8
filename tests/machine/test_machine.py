"""What the machine has and what a process uses, from recorded texts and on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.machine import linux, process
from lab.machine.blas import preload_blas
from lab.machine.machine import Machine, describe
from lab.machine.probe import ProbeError, parse_answer, probe_machine

GB = 2**30

MEMINFO = b"""MemTotal:       24684096 kB
MemFree:        23948648 kB
MemAvailable:   24323816 kB
Buffers:            6576 kB
SwapCached:            0 kB
SwapTotal:       2097148 kB
SwapFree:        1572860 kB
HugePages_Total:       0
Hugepagesize:       2048 kB
"""

METAL = {
    "device_name": "Apple M3 Max",
    "architecture": "applegpu_g15s",
    "memory_size": 64 * GB,
    "max_recommended_working_set_size": 48 * GB,
    "max_buffer_length": 36 * GB,
    "resource_limit": 499000,
}
CUDA = {
    "device_name": "NVIDIA H100 80GB HBM3",
    "architecture": "sm_90",
    "total_memory": 85_029_158_912,
    "free_memory": 84_000_000_000,
    "uuid": "GPU-0",
    "pci_bus_id": "0000:00:04.0",
    "compute_capability_major": 9,
    "compute_capability_minor": 0,
}
CPU = {"architecture": "x86_64", "device_name": "AMD EPYC"}


def of(backend: str, info: dict, memory: int = 64 * GB) -> Machine:
    return describe(backend, info, memory=memory, cores=8, system="Linux", architecture="x86_64")


def test_metal_has_its_working_set_as_budget() -> None:
    found = of("metal", METAL)
    assert (found.memory_gb, found.budget_gb, found.device_name) == (64, 48, "Apple M3 Max")


def test_cuda_has_the_memory_of_its_device() -> None:
    found = of("cuda", CUDA, memory=512 * GB)
    assert found.memory_bytes == CUDA["total_memory"]
    assert found.budget_gb == pytest.approx(0.8 * 79.19, abs=0.01)


def test_cpu_has_the_memory_of_the_system() -> None:
    found = of("cpu", CPU, memory=10 * GB)
    assert (found.memory_gb, found.budget_gb) == (10, 8)


@pytest.mark.parametrize("backend", ["cpu", "metal", "cuda"])
def test_missing_device_keys_do_no_harm(backend: str) -> None:
    found = of(backend, {}, memory=10 * GB)
    assert (found.memory_gb, found.budget_gb, found.device_name) == (10, 8, "x86_64")


def test_meminfo() -> None:
    assert linux.parse_meminfo(MEMINFO)["MemTotal"] == 24684096 * 1024
    assert linux.parse_available(MEMINFO) == (24323816 * 1024, 524288 * 1024)
    assert linux.parse_available(b"") == (0, 0)


def test_statm() -> None:
    assert linux.parse_statm(b"5714 2921 1568 1 0 1377 0\n", 4096) == 2921 * 4096


@pytest.mark.parametrize(
    ("text", "limit"),
    [("max\n", None), ("9223372036854771712\n", None), ("8589934592\n", 8 * GB), ("", None)],
)
def test_cgroup_memory_limit(text: str, limit: int | None) -> None:
    assert linux.parse_limit(text) == limit


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000\n", None), ("150000 100000\n", 1.5), ("-1 100000", None), ("", None)],
)
def test_cgroup_cpu_quota(text: str, cores: float | None) -> None:
    assert linux.parse_quota(text) == cores


@pytest.mark.parametrize(
    ("membership", "own"),
    [
        ("0::/user.slice/run.scope\n", "user.slice/run.scope"),  # version 2
        ("4:memory:/docker/abc\n1:cpu,cpuacct:/\n0::/\n", "memory/docker/abc"),  # version 1
    ],
)
def test_cgroup_folders_are_its_own_and_those_above(
    tmp_path: Path, membership: str, own: str
) -> None:
    (tmp_path / own).mkdir(parents=True)
    found = linux.cgroup_folders(membership, "memory", tmp_path)
    assert tmp_path / own in found
    assert (tmp_path / own).parent in found
    assert all(f.is_relative_to(tmp_path) for f in found)


def test_cgroup_path_of_the_host_falls_back_to_the_root(tmp_path: Path) -> None:
    assert linux.cgroup_folders("0::/not/here\n", "memory", tmp_path) == [tmp_path]


def test_cgroup_counts_reclaimable_pages_as_room(tmp_path: Path) -> None:
    (tmp_path / "usage").write_text("900\n")
    (tmp_path / "stat").write_text("cache 5\ninactive_file 300\ntotal_inactive_file 400\n")
    usage, stat = (os.open(tmp_path / name, os.O_RDONLY) for name in ("usage", "stat"))
    assert linux._cgroup_room(10_000, 1000, usage, stat) == 500
    assert linux._cgroup_room(50, 1000, usage, stat) == 50
    assert linux._cgroup_room(10_000, 400, usage, stat) == 0


def test_probe_is_what_the_module_prints(repo: Path) -> None:
    command = [sys.executable, "-m", "lab.machine"]
    printed = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=True)
    assert Machine(**json.loads(printed.stdout)) == probe_machine()


def test_a_probe_that_fails_says_why() -> None:
    answer = parse_answer("", "Traceback\nModuleNotFoundError: No module named 'mlx'\n")
    assert isinstance(answer, ProbeError)
    assert "No module named 'mlx'" in str(answer)


def test_process_bytes_follow_an_allocation() -> None:
    before = process.process_bytes()
    block = bytearray(os.urandom(1) * (64 << 20))
    grown = process.process_bytes() - before
    assert len(block) * 0.9 < grown < len(block) * 1.5
    assert process.process_bytes_of(os.getpid()) == pytest.approx(before + grown, rel=0.1)


def test_a_process_that_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with pytest.raises(ProcessLookupError):
        process.process_bytes_of(child.pid)


def test_available_memory_is_part_of_the_machine() -> None:
    available, swap = process.available_and_swap_bytes()
    assert 0 < available < 2**50
    assert swap >= 0


@pytest.mark.skipif(sys.platform != "linux", reason="the figure is for Linux")
def test_a_reading_is_cheap() -> None:
    def reading() -> float:
        start = time.perf_counter()
        for _ in range(200):
            process.process_bytes()
            process.available_and_swap_bytes()
        return (time.perf_counter() - start) / 200

    assert min(reading() for _ in range(10)) < 60e-6  # 15 µs; twice 30 for a busy machine


MALLOC_INFO = """<malloc version="1">
<heap nr="0">
<sizes>
  <size from="17" to="32" total="64" count="2"/>
  <size from="3585" to="3648" total="36480" count="10"/>
  <size from="8193" to="8704" total="25600" count="3"/>
  <unsorted from="65" to="131072" total="140000" count="4"/>
</sizes>
<total type="fast" count="2" size="64"/>
<total type="rest" count="17" size="202080"/>
</heap>
<heap nr="1">
<sizes>
  <size from="113" to="128" total="256" count="2"/>
</sizes>
</heap>
</malloc>
"""


def test_holes_are_free_pieces_below_a_page() -> None:
    assert linux.holes_of(MALLOC_INFO) == 64 + 36480 + 256


@pytest.mark.skipif(process.heap_holes_bytes() is None, reason="the C heap does not tell its holes")
def test_what_is_cut_off_between_survivors_is_a_hole() -> None:
    before = process.heap_holes_bytes()
    buffers = [bytearray(4000) for _ in range(4000)]
    for buffer in buffers:
        del buffer[400:]
    after = process.heap_holes_bytes()
    assert before is not None
    assert after is not None
    # Less where what was asked for lies in free pieces that there were.
    assert 0.5 < (after - before) / (4000 * 3600) < 1.1


def test_heap_and_blas_never_raise() -> None:
    process.trim_heap()
    assert preload_blas() is None or "OpenBLAS" in str(preload_blas())
