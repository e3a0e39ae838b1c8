"""Sweeps as typed: each job in a process of its own, harmed, told of, and gone on with."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from lab.cli import main as lab
from lab.config.keys import Config
from lab.config.schema import ConfigError
from lab.sweep.index import Job, SweepIndex, jobs_of, state_of
from lab.sweep.lease import SweepLease, is_leased
from tests.composing import ROOT
from tests.processes import running
from tests.runs import QUICK, Result, Run, started

LONG = 120  # steps of a job that is harmed after the first few


@dataclass(frozen=True)
class Done:
    """A sweep whose command has ended: its folder, exit code and last words."""

    folder: Path
    exit_code: int
    said: str

    @property
    def table(self) -> list[str]:
        """Its table's lines, headings first."""
        return re.findall(r"^ *(?:job|\d+)  .*$", self.said, re.MULTILINE)


def sweep(cwd: Path, *overrides: str, command: tuple[str, ...] = ("train.py", "-m")) -> Done:
    """``python train.py -m`` to its end, in ``sweep`` unless the overrides say where."""
    done = subprocess.run(
        [sys.executable, *command, *overrides],
        cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180, check=False,
    )  # fmt: skip
    return Done(cwd / "sweep", done.returncode, done.stdout)


def new_sweep(cwd: Path, *overrides: str) -> Done:
    train = (str(ROOT / "train.py"), "-m")
    return sweep(cwd, *QUICK, "hydra.sweep.dir=sweep", *overrides, command=train)


def resumed(cwd: Path, *overrides: str) -> Done:
    return sweep(cwd, "sweep", *overrides, command=("-m", "lab.cli", "resume"))


def run_of(sweep: Path, number: int) -> Run:
    return Run(sweep / str(number), Result(0))


def states(sweep: Path) -> dict[int, str]:
    return {job.number: state_of(job, folder) for job, folder in jobs_of(sweep)}


def interrupt(cwd: Path, *overrides: str, act: Callable[[subprocess.Popen], None]) -> int:
    """Begin a sweep, act once the long job's first step is on the console; the exit code."""
    process = started(ROOT, *QUICK, "hydra.sweep.dir=sweep", *overrides, "-m", cwd=cwd)
    assert process.stdout is not None
    for line in process.stdout:
        if re.search(rf"^(\[\d\] )?step \d+/{LONG}".encode(), line):
            act(process)
            break
    process.stdout.read()
    return process.wait(60)


def jobs_below(process: subprocess.Popen) -> list[psutil.Process]:
    return running("lab.sweep.job", below=process.pid, recursive=True)


# --- One that fails among others ----------------------------------------------------------------


@pytest.fixture(scope="module")
def with_failure(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Three jobs, of which the second one fails; W&B is on."""
    return new_sweep(
        tmp_path_factory.mktemp("failure"),
        *("fault=none,crash", "worker.max_restarts=0", "tracker=wandb_offline"),
        *("tracker.tags=[a/b,'c=d']", "hydra.sweep.dir=sweep"),
    )


def test_a_job_that_fails_does_not_take_the_rest_with_it(with_failure: Done) -> None:
    assert with_failure.exit_code == 1
    assert states(with_failure.folder) == {0: "completed", 1: "failed"}
    head, *lines = (line.split() for line in with_failure.table)
    assert head[:4] == ["job", "fault", "state", "loss"]
    assert [line[:3] for line in lines] == [["0", "none", "completed"], ["1", "crash", "failed"]]
    assert "resume   " in with_failure.said


def test_why_it_failed_is_in_its_own_log(with_failure: Done) -> None:
    reason = "fault.crash: step 3 was reached"
    assert with_failure.said.index(reason) < with_failure.said.index("job  fault")
    assert reason in (with_failure.folder / "1" / "train.log").read_text()
    assert reason not in (with_failure.folder / "0" / "train.log").read_text()


def test_jobs_are_named_by_what_differs_and_grouped_in_wandb(with_failure: Done) -> None:
    configs = [Config.load(with_failure.folder / n / "config.yaml") for n in "01"]
    assert [config.name for config in configs] == ["fault=none", "fault=crash"]
    assert configs[0].tracker.tags == ("a/b", "c=d")
    begun = [run_of(with_failure.folder, n).events("run_started")[0] for n in (0, 1)]
    assert [event["group"] for event in begun] == ["sweep", "sweep"]
    ids = {path.name.rpartition("-")[2] for path in with_failure.folder.parent.glob("**/offline-*")}
    assert ids == {event["run_id"] for event in begun}


def test_the_index_says_what_was_asked_for(with_failure: Done) -> None:
    index = SweepIndex.read(with_failure.folder)
    assert index.swept == ("fault",)
    assert [job[-1] for job in index.jobs] == ["tracker.tags=[a/b,'c=d']"] * 2
    assert [Job.read(with_failure.folder / n) for n in "01"] == [
        Job(number=n, overrides=index.jobs[n], exit_code=n) for n in (0, 1)
    ]


def test_a_folder_that_holds_a_sweep_is_refused(with_failure: Done) -> None:
    before = sorted(with_failure.folder.rglob("*"))
    again = new_sweep(with_failure.folder.parent, "seed=1,2")
    assert (again.exit_code, again.said) == (
        2, "hydra.sweep.dir=sweep: already holds a sweep; choose another folder\n"
    )  # fmt: skip
    assert sorted(with_failure.folder.rglob("*")) == before


def test_on_failure_stop_begins_no_other(tmp_path: Path) -> None:
    done = new_sweep(tmp_path, "fault=crash,none", "worker.max_restarts=0", "sweep.on_failure=stop")
    assert done.exit_code == 1
    assert states(done.folder) == {0: "failed"}
    assert done.table[2].split()[:4] == ["1", "none", "not", "begun"]
    assert "sweep.on_failure=stop" in (done.folder / "1" / "train.log").read_text()


# --- Names --------------------------------------------------------------------------------------


def test_folders_and_names_are_safe_whatever_is_swept(tmp_path: Path) -> None:
    folder = tmp_path / "a folder=1"
    folder.mkdir()
    files = [folder / name for name in ("x.jsonl", "y,z.jsonl")]
    for file in files:
        file.write_text("".join(json.dumps({"text": f"line {i} " * 30}) + "\n" for i in range(60)))
    paths = ",".join(f'"{file}"' for file in files)
    done = sweep(
        tmp_path,
        *(*QUICK, "train.steps=1", "data=jsonl", f"data.path={paths}"),
        command=(str(ROOT / "train.py"), "-m"),
    )
    assert done.exit_code == 0, done.said
    [made] = (tmp_path / "outputs" / "sweeps").glob("*/*")
    assert re.fullmatch(r"[\d-]+_[\w.,=+-]+", made.name)
    names = [Config.load(made / str(n) / "config.yaml").name for n in (0, 1)]
    assert names == ["data.path=x.jsonl", "data.path=y,z.jsonl"]
    assert [line.split()[1] for line in done.table] == ["path", "x.jsonl", "y,z.jsonl"]


# --- Interrupted, and gone on with --------------------------------------------------------------

OFTEN_SAVED = ("checkpoint.interval_steps=5", "reload=none")
LONG_FIRST = (f"train.steps={LONG},5", *OFTEN_SAVED)
LONG_SECOND = (f"train.steps=4,{LONG},5", *OFTEN_SAVED)


def press_ctrl_c(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGINT)


def kill_job(process: subprocess.Popen) -> None:
    [job] = jobs_below(process)
    job.kill()


def kill_leader(process: subprocess.Popen) -> None:
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    _, alive = psutil.wait_procs(below, 20)
    assert not alive


def test_an_interrupted_sweep_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    assert interrupt(tmp_path, *LONG_SECOND, act=press_ctrl_c) == 130
    folder = tmp_path / "sweep"
    assert states(folder) == {0: "completed", 1: "interrupted"}
    complete = (folder / "0" / "summary.json").stat().st_mtime_ns
    done = resumed(tmp_path)
    assert done.exit_code == 0, done.said
    assert states(folder) == {0: "completed", 1: "completed", 2: "completed"}
    assert (folder / "0" / "summary.json").stat().st_mtime_ns == complete
    assert run_of(folder, 1).events("resumed")
    assert run_of(folder, 1).column("step") == list(range(1, LONG + 1))


def test_a_killed_job_leaves_the_others(tmp_path: Path) -> None:
    assert interrupt(tmp_path, *LONG_FIRST, act=kill_job) == 1
    folder = tmp_path / "sweep"
    assert states(folder) == {0: "killed", 1: "completed"}
    assert "job 0 was killed by SIGKILL" in (folder / "0" / "train.log").read_text()


def test_a_killed_leader_leaves_no_process_and_is_resumed(tmp_path: Path) -> None:
    assert interrupt(tmp_path, *LONG_FIRST, act=kill_leader) == -signal.SIGKILL
    folder = tmp_path / "sweep"
    assert states(folder) == {0: "interrupted"}
    assert resumed(tmp_path).exit_code == 0
    assert states(folder) == {0: "completed", 1: "completed"}


# --- What resume refuses ------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path) -> SweepIndex:
    """A sweep of which nothing has begun."""
    made = SweepIndex(
        version=1,
        overrides=("seed=1,2", "tracker=none"),
        resumable=True,
        swept=("seed",),
        jobs=(("seed=1", "tracker=none"), ("seed=2", "tracker=none")),
        side_by_side=1,
        host="here",
    )
    write(made, tmp_path / "sweep")
    return made


def write(index: SweepIndex, folder: Path) -> None:
    folder.mkdir()
    (folder / "sweep.json").write_text(index.text())


def refusal(folder: Path, *overrides: str, monkeypatch: pytest.MonkeyPatch, capsys) -> str:
    """What ``lab resume`` says of a sweep, in one line, before anything is done."""
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["lab", "resume", str(folder), *overrides])
    assert lab() == 2
    assert sorted(folder.rglob("*")) == before
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"overrides": ("hydra.callbacks.x._target_=os.system",)}, "is not taken from a file"),
        ({"overrides": ("+hydra/launcher=a/b",)}, "is not taken from a file"),
        ({"overrides": ("hydra/env=default",)}, "is not taken from a file"),
        ({"overrides": ("name=${oc.env:HOME}",)}, "holds no interpolation"),
        ({"overrides": ("--config-dir=elsewhere",)}, "is not taken from a file"),
        ({"overrides": ("model=../../other",)}, "is not taken from a file"),
        ({"resumable": False, "overrides": ()}, "held an interpolation"),
        ({"version": 99}, "this lab reads version 1"),
    ],
)
def test_an_index_that_may_be_hostile_names_no_code(
    index: SweepIndex, tmp_path: Path, monkeypatch, capsys, change: dict, line: str
) -> None:
    shutil.rmtree(tmp_path / "sweep")
    write(replace(index, **change), tmp_path / "sweep")
    assert line in refusal(tmp_path / "sweep", monkeypatch=monkeypatch, capsys=capsys)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}', "[" * 100_000])
def test_a_damaged_index_is_one_line(tmp_path: Path, monkeypatch, capsys, text: str) -> None:
    (tmp_path / "sweep.json").write_text(text)
    refusal(tmp_path, monkeypatch=monkeypatch, capsys=capsys)


def test_a_sweep_is_leased_by_one_process(index: SweepIndex, tmp_path: Path) -> None:
    lease = SweepLease(tmp_path / "sweep")
    assert is_leased(tmp_path / "sweep")
    with pytest.raises(ConfigError, match="still going on in another process"):
        SweepLease(tmp_path / "sweep")
    lease.release()
    assert not is_leased(tmp_path / "sweep")


def test_other_jobs_than_it_was_begun_with_are_refused(index: SweepIndex, tmp_path: Path) -> None:
    done = resumed(tmp_path, "seed=1,3")
    assert done.exit_code == 2
    assert done.said.count("\n") == 1
    assert "would have other jobs now" in done.said
