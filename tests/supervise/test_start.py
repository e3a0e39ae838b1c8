"""A worker before its first step, and what is known of one that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.supervise.experiment import Result
from lab.supervise.worker_process import POLL_S
from tests.runs import QUICK, Run, jsonl, start

ONE = ("reload=none", "worker.max_restarts=0")
LAST = "libc++abi: terminating due to uncaught exception of type std::runtime_error"


@pytest.fixture
def at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Code that every worker runs before its first line."""

    def does(code: str) -> None:
        head = "import os, sys, time\nif 'lab.train.worker' in sys.orig_argv:\n"
        lines = "".join(f"    {line}\n" for line in code.splitlines())
        (tmp_path / "sitecustomize.py").write_text(head + lines)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return does


def test_a_slow_start_is_no_hang(tmp_path: Path, at_start) -> None:
    at_start("time.sleep(4)")
    run = start(tmp_path / "run", *ONE, "worker.timeout_s=3", "train.steps=3")
    assert run.result.exit_code == 0
    assert not run.events("worker_died")


def test_a_start_that_hangs_is_ended(tmp_path: Path, at_start, caplog) -> None:
    caplog.set_level("INFO", logger="lab")
    at_start("time.sleep(600)")
    run = start(tmp_path / "run", *ONE, "worker.start_timeout_s=1")
    assert run.result.exit_code == 1
    assert run.summary["state"] == "failed"
    [died] = run.events("worker_died")
    assert died["cause"] == "nothing was heard of it for 1 s (killed by SIGKILL)"
    assert f"the worker died: {died['cause']}" in caplog.text


def test_ctrl_c_ends_a_start_that_takes_long(repo: Path, tmp_path: Path, at_start) -> None:
    at_start("time.sleep(600)")
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, str(repo / "train.py"), *QUICK, f"hydra.run.dir={folder}"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    while not (folder / "events.jsonl").exists() or not jsonl(folder / "events.jsonl"):
        assert process.poll() is None
        time.sleep(POLL_S)  # nothing says that a worker is there which does not speak
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "lab resume" in said
    run = Run(folder, Result(130))
    assert run.summary["state"] == "interrupted"
    assert not run.events("worker_died")


# --- What is known of its death -----------------------------------------------------------------


def test_the_last_words_of_a_worker_are_kept_and_passed_on(
    tmp_path: Path, at_start, capfd: pytest.CaptureFixture[str], caplog
) -> None:
    """More than a pipe holds, with a letter cut in half where the kept part begins."""
    caplog.set_level("INFO", logger="lab")
    at_start(f"os.write(2, 'ü'.encode() * 200_000 + b'\\n{LAST}')\nos.abort()")
    run = start(tmp_path / "run", *ONE)
    [died] = run.events("worker_died")
    assert died["cause"] == "killed by SIGABRT"
    assert died["stderr"].endswith(f"ü\n{LAST}")
    assert 4000 > len(died["stderr"]) > 2000  # 4 KB of letters of two bytes
    assert capfd.readouterr().err.count("ü") == 200_000
    assert "the worker died: killed by SIGABRT" in caplog.text


def test_an_exception_needs_no_last_words(tmp_path: Path) -> None:
    run = start(tmp_path / "run", *ONE, "fault=crash", "fault.crash.step=2")
    [died] = run.events("worker_died")
    assert (died["cause"], died["stderr"]) == ("exit code 1", None)
    assert "fault.crash" in died["error"]


def test_an_exit_status_is_told_although_something_holds_the_workers_pipes(
    tmp_path: Path, at_start
) -> None:
    left = tmp_path / "left"
    at_start(
        f"if os.fork() == 0:\n    print(os.getpid(), file=open({str(left)!r}, 'w'))\n"
        "    time.sleep(600)\nos.abort()"
    )
    run = start(tmp_path / "run", *ONE, "worker.start_timeout_s=30")
    [died] = run.events("worker_died")
    assert died["cause"] == "killed by SIGABRT"
    assert died["time"] < 30
    os.kill(int(left.read_text()), signal.SIGKILL)
