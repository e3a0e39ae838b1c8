"""What is read on macOS, from a compiled fake of its libraries; nobody here has a Mac."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.machine import linux, macos, process
from lab.records.files import RunFiles
from lab.train import checkpoint, memory

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


def test_the_heap_is_what_all_zones_have_taken(mac: ctypes.CDLL) -> None:
    assert macos.heap_taken_bytes() == 96 << 20


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
    assert macos.heap_taken_bytes() is None


def test_both_platforms_have_what_the_lab_calls() -> None:
    names = set(process.__all__) - {"has_ended"}
    for platform in (linux, macos):
        assert {name for name in names if callable(getattr(platform, name, None))} == names


# --- The disk, and sleep ------------------------------------------------------------------------


def test_the_disk_is_asked_for_more_than_fsync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(fcntl, "fcntl", lambda descriptor, command: asked.append(command))
    with (tmp_path / "file").open("w") as file:
        macos.fsync(file.fileno())
    assert asked == [51]  # F_FULLFSYNC


def test_a_file_system_without_it_is_synced_as_well_as_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, command: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    synced = []
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    monkeypatch.setattr(os, "fsync", synced.append)
    macos.fsync(7)
    assert synced == [7]


def test_a_runs_files_are_synced_by_the_platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(process, "fsync", asked.append)
    files = RunFiles(tmp_path)
    files.fsync()
    files.write_summary({})
    files.close()
    checkpoint.save(tmp_path / "checkpoints", checkpoint.Snapshot(1, {"progress": {"step": 1}}), {})
    assert len(asked) == 3 + 5  # rows, events, summary; three files of JSON and two folders


CAFFEINATED = """import os, sys
from lab.machine import macos, process
process.keep_awake = macos.keep_awake
macos.CAFFEINATE = sys.argv[1]
from tests.runs import start
from pathlib import Path
start(Path(sys.argv[2]), "train.steps=2")
print(os.getpid())
"""


def test_a_run_holds_idle_sleep_off_and_lets_the_display_sleep(repo: Path, tmp_path: Path) -> None:
    fake, heard = tmp_path / "caffeinate", tmp_path / "heard"
    fake.write_text(f'#!/bin/sh\necho "$@" >> {heard}\n')
    fake.chmod(0o755)
    command = [sys.executable, "-c", CAFFEINATED, str(fake), str(tmp_path / "run")]
    said = subprocess.run(command, cwd=repo, check=True, capture_output=True, text=True).stdout
    assert heard.read_text() == f"-i -s -w {said.split()[-1]}\n"


def test_without_caffeinate_a_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(macos, "CAFFEINATE", "/no/such/program")
    macos.keep_awake.cache_clear()
    assert macos.keep_awake() is None
    macos.keep_awake.cache_clear()
