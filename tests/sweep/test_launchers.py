"""Sweeps under each launcher: what its jobs share, and what is left when some of it is harmed."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from lab.config.keys import Config
from lab.machine.probe import probe_machine
from lab.sweep.index import Job, SweepIndex
from tests.composing import ROOT
from tests.processes import command_of
from tests.runs import QUICK, jsonl
from tests.sweep.test_sweep import Done, jobs_below, new_sweep, resumed, run_of, states

LAUNCHERS = ("joblib", "submitit_local")
SLOW_SUBMITIT = pytest.param("submitit_local", marks=pytest.mark.slow)
SLOW_RAY = pytest.param("ray", marks=pytest.mark.slow)
SLOW_JOBLIB = pytest.param("joblib", marks=pytest.mark.slow)
LONG = (*QUICK, "train.steps=100", "checkpoint.interval_steps=5", "reload=none", "seed=1,2")


# --- To their end -------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["joblib", SLOW_SUBMITIT, SLOW_RAY])
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Two jobs side by side, of which the first one fails."""
    return new_sweep(
        tmp_path_factory.mktemp(request.param),
        *(f"hydra/launcher={request.param}", "fault=crash,none", "worker.max_restarts=0"),
        "worker.threads=auto",
    )


def test_a_job_that_fails_does_not_take_the_rest_with_it(done: Done) -> None:
    assert done.exit_code == 1
    assert states(done.folder) == {0: "failed", 1: "completed"}
    assert [line.split()[:3] for line in done.table[1:]] == [
        ["0", "crash", "failed"],
        ["1", "none", "completed"],
    ]
    assert run_of(done.folder, 1).column("step") == [1, 2, 3, 4, 5, 6]
    assert "Traceback" not in done.said


def test_jobs_side_by_side_share_memory_and_cores(done: Done) -> None:
    assert SweepIndex.read(done.folder).side_by_side == 2
    half = probe_machine().share(2)
    for number in "01":
        config = Config.load(done.folder / number / "config.yaml")
        assert config.memory.budget_gb == min(half.budget_gb, config.hardware.budget_gb)
        assert config.memory.limit_gb == config.memory.budget_gb
        assert config.worker.threads == half.cores


def test_every_job_has_what_a_run_has(done: Done) -> None:
    for number in (0, 1):
        folder = done.folder / str(number)
        job = Job.read(folder)
        assert job is not None
        assert (job.number, job.exit_code) == (number, 1 - number)
        [begun] = run_of(done.folder, number).events("run_started")
        assert begun["group"] == "sweep"
        assert (folder / "summary.json").exists()
    assert "fault.crash: step 3" in (done.folder / "0" / "train.log").read_text()


# --- Harmed -------------------------------------------------------------------------------------


def steps_of(sweep: Path) -> list[int]:
    """How many steps each job has done."""
    return [len(jsonl(file)) for file in sorted(sweep.glob("*/metrics.jsonl"))]


def until(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        with suppress(subprocess.TimeoutExpired):
            pytest.fail(f"ended with {process.wait(0.05)}")
        assert time.monotonic() < deadline


class Begun:
    """A sweep whose two jobs train side by side, and all processes that it has."""

    def __init__(self, launcher: str, cwd: Path) -> None:
        overrides = (f"hydra/launcher={launcher}", *LONG, "hydra.sweep.dir=sweep", "-m")
        self.folder = cwd / "sweep"
        with (cwd / "said").open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "train.py"), *overrides],
                cwd=cwd, stdout=said, stderr=said, start_new_session=True,
            )  # fmt: skip
        until(self.process, lambda: len(s := steps_of(self.folder)) == 2 and min(s) > 2)
        self.below = psutil.Process(self.process.pid).children(recursive=True)
        assert len(jobs_below(self.process)) == 2

    def ends(self) -> int:
        """Its exit code, once none of its processes is there any more."""
        exit_code = self.process.wait(30)
        below = [child for child in self.below if not _is_agent_of_ray(child)]
        _, alive = psutil.wait_procs(below, 30)
        assert [command_of(child) for child in alive] == []
        return exit_code

    @property
    def said(self) -> str:
        return (self.folder.parent / "said").read_text()


def _is_agent_of_ray(process: psutil.Process) -> bool:
    """Two of them, with nothing of a job's in them, see only after a minute that Ray was killed."""
    return any(re.match(r"ray::\w+Agent", word) for word in command_of(process))


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[[str], Begun]]:
    """Begins a sweep under a launcher; what is still there of it after the test is ended."""
    begun: list[Begun] = []

    def of(launcher: str) -> Begun:
        begun.append(Begun(launcher, tmp_path))
        return begun[-1]

    yield of
    for sweep in begun:
        for process in (*sweep.below, sweep.process):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def assert_interrupted(sweep: Path) -> None:
    assert states(sweep) == {0: "interrupted", 1: "interrupted"}
    assert all(2 < steps < 100 for steps in steps_of(sweep))


@pytest.mark.parametrize("launcher", ["joblib", SLOW_SUBMITIT, SLOW_RAY])
def test_a_signal_ends_all_jobs(begin: Callable[[str], Begun], launcher: str) -> None:
    ctrl_c, terminated = (signal.SIGINT, 130), (signal.SIGTERM, 143)
    number, exit_code = ctrl_c if launcher == "joblib" else terminated
    sweep = begin(launcher)
    sweep.process.send_signal(number)
    assert sweep.ends() == exit_code
    assert_interrupted(sweep.folder)
    assert "resume   " in sweep.said
    assert "Traceback" not in sweep.said


@pytest.mark.parametrize("launcher", [SLOW_JOBLIB, SLOW_SUBMITIT, SLOW_RAY])
def test_when_the_leader_is_killed_the_others_end_and_are_gone_on_with(
    begin: Callable[[str], Begun], launcher: str
) -> None:
    sweep = begin(launcher)
    sweep.process.kill()
    assert sweep.ends() == -signal.SIGKILL
    assert_interrupted(sweep.folder)
    done = resumed(sweep.folder.parent)
    assert done.exit_code == 0, done.said
    assert steps_of(sweep.folder) == [100, 100]
    assert all(run_of(sweep.folder, n).events("resumed") for n in (0, 1))
    assert {"joblib": "Joblib.Parallel", "ray": "Ray Launcher"}.get(
        launcher, "Submitit"
    ) in done.said


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [*LAUNCHERS, "ray"])
def test_a_killed_job_leaves_the_one_beside_it(
    begin: Callable[[str], Begun], launcher: str
) -> None:
    sweep = begin(launcher)
    jobs_below(sweep.process)[0].kill()
    assert sweep.ends() == 1
    assert sorted(states(sweep.folder).values()) == ["completed", "killed"]
    told = [(sweep.folder / n / "train.log").read_text() for n in "01"]
    assert re.search(r"job \d was killed by SIGKILL", "".join(told))


@pytest.mark.slow
def test_a_job_that_slurm_would_requeue_goes_on_where_it_was(
    begin: Callable[[str], Begun],
) -> None:
    """submitit's local executor does with this signal what it does before SLURM's time is up."""
    sweep = begin("submitit_local")
    job = jobs_below(sweep.process)[0].parent()
    assert job is not None
    job.send_signal(signal.SIGUSR2)
    assert sweep.ends() == 0
    assert steps_of(sweep.folder) == [100, 100]
    resumptions = [len(run_of(sweep.folder, n).events("resumed")) for n in (0, 1)]
    assert sorted(resumptions) == [0, 1]
