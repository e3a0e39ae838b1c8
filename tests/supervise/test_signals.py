"""Ctrl-C, SIGTERM and a closed terminal: a run ends as it was asked to, and can be resumed."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from lab.supervise import experiment
from lab.supervise.experiment import Result
from tests.runs import QUICK, Run, started


def close_terminal(repo: Path, cwd: Path, *overrides: str, after: str) -> int:
    """The exit code of a command whose terminal goes once it has said a word, then SIGHUP comes."""
    ours, theirs = os.openpty()
    process = started(repo, *QUICK, *overrides, cwd=cwd, terminal=theirs)
    os.close(theirs)
    said = b""
    while after.encode() not in said:
        said += os.read(ours, 4096)
    os.close(ours)  # every later write to it fails
    process.send_signal(signal.SIGHUP)
    return process.wait(60)


@pytest.mark.parametrize("after", ["╭", "loss"])  # its introduction, its first steps
def test_a_closed_terminal_interrupts_a_run_that_can_be_resumed(
    repo: Path, tmp_path: Path, after: str
) -> None:
    folder = tmp_path / "run"
    overrides = ("train.steps=150", f"hydra.run.dir={folder}")
    assert close_terminal(repo, tmp_path, *overrides, after=after) == 143
    run = Run(folder, Result(143))
    assert run.summary["state"] == "interrupted"
    assert experiment.resume(folder).exit_code == 0
    assert run.column("step") == list(range(1, 151))
    assert not run.events("replay_mismatch")


def test_a_closed_terminal_interrupts_a_sweep(repo: Path, tmp_path: Path) -> None:
    overrides = ("train.steps=300", "-m", "seed=1,2", f"hydra.sweep.dir={tmp_path}/sweep")
    assert close_terminal(repo, tmp_path, *overrides, after="0/2 done") == 143
    assert (tmp_path / "sweep" / "sweep.json").is_file()
    rows = [file.read_bytes() for file in tmp_path.glob("sweep/*/metrics.jsonl")]
    assert sum(part.count(b"\n") for part in rows) < 300  # not even the first job trained on


def test_ctrl_c_ends_a_whole_sweep_with_130(repo: Path, tmp_path: Path) -> None:
    overrides = (*QUICK, "train.steps=400", "-m", "seed=1,2", f"hydra.sweep.dir={tmp_path}/sweep")
    process = started(repo, *overrides, cwd=tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"step "):
            process.send_signal(signal.SIGINT)
            break
    process.stdout.read()
    assert process.wait(60) == 130
    assert Run(tmp_path / "sweep" / "0", Result(130)).summary["state"] == "interrupted"
    assert not (tmp_path / "sweep" / "1" / "metrics.jsonl").exists()


def test_a_second_ctrl_c_ends_at_once(repo: Path, tmp_path: Path) -> None:
    """The worker is stopped: it cannot answer the first one."""
    folder = tmp_path / "run"
    overrides = (*QUICK, "train.steps=400", f"hydra.run.dir={folder}")
    process = started(repo, *overrides, cwd=tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"step "):
            break
    worker = Run(folder, Result(130)).events("worker_started")[-1]["pid"]
    os.kill(worker, signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)  # it waits for the step's end
    process.send_signal(signal.SIGINT)
    assert b"ended at once by the second Ctrl-C\n" in process.stdout.read()
    assert process.wait(5) == 130
    assert not psutil.pid_exists(worker)
