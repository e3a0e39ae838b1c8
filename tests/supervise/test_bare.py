"""Machines that lack what others have: none of it costs a finished run its summary."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.machines import LACKS, environment_of
from lab.machine import linux
from lab.records.files import check_idle
from lab.supervise import experiment
from lab.supervise.experiment import Result
from lab.supervise.run_supervisor import RunSupervisor
from lab.supervise.worker_process import WorkerProcess, cache_folder
from lab.sweep.lease import is_leased
from tests.runs import QUICK, Run, start

BY_PROCESS = ("reload=interval", "reload.interval_steps=3", "reload.method=process")


# Where both lack, each lacks; alone they are slow.
ALONE = ("git", "a home")
EACH = [pytest.param(what, marks=[pytest.mark.slow] * (what in ALONE)) for what in LACKS]


@pytest.mark.parametrize("what", EACH)
def test_what_a_machine_lacks_costs_no_run_its_summary(
    repo: Path, tmp_path: Path, what: str
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"line {i} " * 5}) + "\n" for i in range(40)))
    done = subprocess.run(
        [
            *(sys.executable, str(repo / "train.py"), *QUICK, *BY_PROCESS),
            *("data=jsonl", f"data.path={data}", f"hydra.run.dir={tmp_path / 'run'}"),
        ],
        cwd=tmp_path, env=environment_of(tmp_path, lacks=what),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Traceback" not in said
    run = Run(tmp_path / "run", Result(0))
    assert run.summary["state"] == "completed"
    assert run.summary["reloads"] == {"interval": 1}
    assert run.column("step") == list(range(1, 7))
    if "git" in what:
        assert run.summary["environment"]["git_commit"] is None
    if "home" in what:
        assert list((tmp_path / "temporary").glob("mlx-memory-lab-*"))
    if what == "/proc":
        figures = ("process_gb", "available_gb", "swap_gb")
        assert all(run.column(f"memory/{name}") == [None] * 6 for name in figures)
        assert run.summary["peak_process_gb"] is None
        assert run.summary["mean_process_gb"] is None
        assert run.summary["environment"]["machine_memory_gb"] > 0


def test_the_cache_is_where_it_was_for_those_who_have_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LAB_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "mlx-memory-lab"
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path / "given"))
    assert cache_folder() == tmp_path / "given"


@pytest.mark.parametrize("number", ["ENOLCK", "EOPNOTSUPP"])
def test_without_locks_nobody_is_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    import errno
    import fcntl

    def flock(*_: int) -> None:
        raise OSError(getattr(errno, number), "No locks available")

    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "sweep.json").touch()
    monkeypatch.setattr(fcntl, "flock", flock)
    check_idle(tmp_path)
    assert is_leased(tmp_path)


# --- A number and folders that are there already ------------------------------------------------


def test_what_a_killed_save_left_is_in_nobodys_way(tmp_path: Path) -> None:
    """In a container the next worker may have the number of the killed one."""

    class Harmed(RunSupervisor):
        def _start_worker(self, generation: int) -> WorkerProcess:
            worker = super()._start_worker(generation)
            for step in (3, 6):
                left = self._run_dir / "checkpoints" / f".step_{step}.{worker.pid}.tmp"
                left.mkdir(parents=True, exist_ok=True)
                (left / "state.json").write_text("{")
            return worker

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "RunSupervisor", Harmed)
        run = start(tmp_path / "run", *BY_PROCESS)
    assert run.result.exit_code == 0
    assert [e["step"] for e in run.events("checkpoint") if "error" not in e] == [3, 6]
    assert sorted(p.name for p in (run.folder / "checkpoints").iterdir()) == ["step_3", "step_6"]


# --- Workers that cannot be started -------------------------------------------------------------


def failing(*starts: int) -> type[RunSupervisor]:
    """A supervisor whose starts of a worker of these numbers fail, as where no process is left."""
    made: list[int] = []

    class Failing(RunSupervisor):
        def _start_worker(self, generation: int) -> WorkerProcess:
            made.append(generation)
            if len(made) in starts:
                raise BlockingIOError(11, "Resource temporarily unavailable")
            return super()._start_worker(generation)

    return Failing


def test_a_standby_that_cannot_be_started_is_started_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(experiment, "RunSupervisor", failing(2))
    run = start(tmp_path / "run", *BY_PROCESS)
    assert run.result.exit_code == 0
    assert run.summary["reloads"] == {"interval": 1}
    assert not run.events("worker_died")
    assert "could not be started yet: [Errno 11] Resource temporarily unavailable" in caplog.text


def test_a_worker_that_cannot_be_started_counts_as_one_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "RunSupervisor", failing(2, 3))
    run = start(tmp_path / "run", *BY_PROCESS)
    assert run.result.exit_code == 0
    [died] = run.events("worker_died")
    assert died["cause"].startswith("it could not be started: ")
    monkeypatch.setattr(experiment, "RunSupervisor", failing(*range(2, 99)))
    run = start(tmp_path / "never", *BY_PROCESS, "worker.max_restarts=1")
    assert run.result.exit_code == 1
    assert run.summary["state"] == "failed"
    assert run.column("step") == [1, 2, 3]


def test_no_two_workers_have_one_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that died before it was ready is counted, though no event tells of it."""
    monkeypatch.setattr(experiment, "RunSupervisor", failing(2, 3))
    run = start(tmp_path / "run", *BY_PROCESS)
    (run.folder / "summary.json").unlink()  # as if it had been killed at step 4
    rows = (run.folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run.folder / "metrics.jsonl").write_bytes(b"".join(rows[:4]))
    assert experiment.resume(run.folder).exit_code == 0
    assert [e["generation"] for e in run.events("worker_started")] == [0, 2, 3]
    assert run.column("reload/generation") == [0, 0, 0, 2, 3, 3]


# --- No /proc -----------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_the_machine_is_known_without_proc(repo: Path) -> None:
    hide = "mount -t tmpfs none /proc && exec "
    shell = ["unshare", "--mount", "sh", "-c", f'{hide}"$0" -m lab.machine', sys.executable]
    done = subprocess.run(shell, cwd=repo, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("mounting is not allowed here")
    assert done.returncode == 0, done.stderr
    memory = json.loads(done.stdout)["memory_bytes"]
    assert memory >= linux.memory_limit() > 0


CHILD = """
import os, subprocess
from lab.machine import process
child = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(process.has_ended(child.pid))
child.kill()
os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
print(process.has_ended(child.pid))
child.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_without_proc_a_worker_that_lives_is_not_taken_for_dead(tmp_path: Path) -> None:
    """Else what it was killed for would not be told."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD], env=environment_of(tmp_path, lacks="/proc"),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "False\nTrue\n"
