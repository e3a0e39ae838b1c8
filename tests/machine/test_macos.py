"""What is read on macOS, from a compiled fake of its libraries; nobody here has a Mac."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.machine import macos
from lab.train import memory

GB = 2**30
GONE = 77777

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler here")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("fake") / "libfake.so"
    source = Path(__file__).with_name("fake_macos.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


@pytest.fixture
def mac(built: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    monkeypatch.setattr(macos, "LIBPROC", str(built))
    monkeypatch.setattr(macos, "LIBSYSTEM", str(built))
    _forget()
    fake = ctypes.CDLL(str(built))
    yield fake
    ctypes.c_int.in_dll(fake, "fake_fails").value = 0
    _forget()


def _forget() -> None:
    macos._proc_pid_rusage.cache_clear()
    macos._sysctlbyname.cache_clear()


def test_a_process_has_its_footprint(mac: ctypes.CDLL) -> None:
    assert macos.process_bytes() == macos.process_bytes_of(os.getpid()) == 3 * GB
    with pytest.raises(ProcessLookupError, match=f"no memory figures for process {GONE}"):
        macos.process_bytes_of(GONE)


def test_the_system_is_read_without_psutil(mac: ctypes.CDLL) -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert macos.memory_limit() == total
    assert macos.available_and_swap_bytes() == (total * 42 // 100, 512 << 20)
    assert "psutil" not in Path(macos.__file__).read_text().split('"""', 2)[2]


def test_a_kernel_variable_that_is_not_there_is_named(mac: ctypes.CDLL) -> None:
    with pytest.raises(OSError, match=r"sysctl kern\.nothing: No such file"):
        macos.sysctl("kern.nothing", 4)
    with pytest.raises(OSError, match=r"sysctl vm\.swapusage: Cannot allocate"):
        macos.sysctl("vm.swapusage", 16)


def test_a_reading_that_fails_is_null_in_the_row(
    mac: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctypes.c_int.in_dll(mac, "fake_fails").value = 1
    monkeypatch.setattr(memory, "process", macos)
    row = memory.read().row()
    assert (row["memory/available_gb"], row["memory/swap_gb"]) == (None, None)
    assert row["memory/process_gb"] == 3


def test_a_library_that_is_not_there_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(macos, "LIBPROC", "/no/such/library")
    monkeypatch.setattr(macos, "LIBSYSTEM", "/no/such/library")
    _forget()
    assert macos.process_bytes() is None
    assert macos.available_and_swap_bytes() == (None, None)
