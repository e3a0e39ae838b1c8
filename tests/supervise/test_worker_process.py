"""How a worker is ended: asked first, then killed; and what a logout does to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lab.machine.interpreter import environment_with_lab
from lab.protocol import Command, Outcome, RecordKind
from lab.supervise.worker_process import QUIT_S, WorkerExit, WorkerProcess
from tests.runs import QUICK, config_of


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[WorkerProcess]:
    """A real one, with a first step done and more than it can do before it."""
    config = config_of(*QUICK, "train.steps=100000", "reload=none", "checkpoint.enabled=false")
    worker = WorkerProcess(config, tmp_path, generation=0, started=time.monotonic())
    worker.send(Command.GO, 0)
    for record in worker.records(60, 60):
        if record is not None and record["kind"] == RecordKind.ROW:
            break
    yield worker
    worker._process.kill()
    worker._process.wait()


def test_a_worker_that_is_to_be_killed_is_asked_first(worker: WorkerProcess) -> None:
    worker.kill("it is far too large")
    assert worker.close() == WorkerExit(Outcome.FAILED, "it is far too large (exit code 70)")


def test_one_that_does_not_answer_is_killed_a_second_later(worker: WorkerProcess) -> None:
    os.kill(worker.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, worker.pid, os.WSTOPPED | os.WNOWAIT)
    began = time.monotonic()
    worker.kill("it hangs")
    assert worker.close() == WorkerExit(Outcome.FAILED, "it hangs (killed by SIGKILL)")
    assert QUIT_S <= time.monotonic() - began < 4 * QUIT_S


def test_a_group_of_the_dead_may_refuse_the_signal(
    worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As macOS does: EPERM for a group in which only zombies are left."""

    def refuses(group: int, number: int) -> None:
        assert (group, number) == (worker.pid, signal.SIGKILL)
        assert psutil.Process(worker.pid).status() == psutil.STATUS_ZOMBIE
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "killpg", refuses)
    worker.kill()
    assert worker.close() == WorkerExit(Outcome.FAILED, "exit code 70")


def test_a_worker_that_was_reaped_is_not_killed_again(
    worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.kill()
    worker.close()
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("its number may be another's now"))
    worker.kill()


def test_a_logouts_sigterm_does_not_end_a_worker(worker: WorkerProcess) -> None:
    os.kill(worker.pid, signal.SIGTERM)
    records = worker.records(60, 60)
    rows = (r for r in records if r is not None and r["kind"] == RecordKind.ROW)
    assert len([next(rows) for _ in range(30)]) == 30
    worker.send(Command.STOP)
    list(rows)
    assert worker.close() == WorkerExit(Outcome.STOPPED)


QUITTING = """import os, sys, threading
import mlx.core as mx
mx.metal.is_available = lambda: True
mx.set_wired_limit = lambda limit: print("wired limit", limit, flush=True)
from lab.train.channel import Channel
Channel(os.open(os.devnull, os.O_WRONLY))
threading.Event().wait()
"""


@pytest.mark.parametrize("said", ["quit\n", ""])  # or the supervisor is gone
def test_no_memory_stays_wired_by_one_that_is_told_to_quit(said: str) -> None:
    """A main thread that hangs, on a system that looks like Metal."""
    child = subprocess.run(
        [sys.executable, "-c", QUITTING], input=said, env=environment_with_lab(),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (child.stdout, child.returncode) == ("wired limit 0\n", 70), child.stderr
