"""Metal's walls: recognised in what MLX prints there, and not run into again."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from lab.supervise import experiment, walls
from lab.supervise.run_supervisor import RunSupervisor
from lab.supervise.walls import WALLS, Wall, WallPolicy, recognise
from lab.supervise.worker_process import WorkerExit
from tests.runs import start

# As users of MLX have reported them.
RECORDED = {
    "RuntimeError: [METAL] Command buffer execution failed: Impacting Interactivity "
    "(0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)": "display",
    "libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL] Command "
    "buffer execution failed: Insufficient Memory "
    "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)": "out of memory",
    "RuntimeError: [metal::malloc] Resource limit (499000) exceeded.": "no more buffers",
    "RuntimeError: [metal::malloc] Attempting to allocate 134217728000 bytes which is greater than "
    "the maximum allowed buffer size of 9534832640 bytes.": "largest buffer",
}


@pytest.mark.parametrize("text", RECORDED)
def test_a_wall_is_recognised_among_other_last_words(text: str) -> None:
    wall = recognise(f"Fetching 5 files\n{text}\nAbort trap: 6\n")
    assert wall is not None
    assert RECORDED[text] in wall.name
    assert "lower " in wall.remedy


@pytest.mark.parametrize("text", ["", "RuntimeError: fault.crash", "Insufficient Memory!"])
def test_another_error_is_none(text: str) -> None:
    assert recognise(text) is None


def test_the_display_is_let_go_first_once() -> None:
    policy = WallPolicy({})
    assert policy.finds_a_way(WALLS[0], start_step=0, last_step=0)
    assert policy.environment.keys() == {
        "AGX_RELAX_CDM_CTXSTORE_TIMEOUT", "MLX_MAX_OPS_PER_BUFFER"
    }  # fmt: skip
    assert not policy.finds_a_way(WALLS[0], start_step=0, last_step=50)


def test_the_users_own_variables_stay() -> None:
    policy = WallPolicy(dict.fromkeys(WALLS[0].environment, "5"))
    assert not policy.finds_a_way(WALLS[0], start_step=0, last_step=9)
    assert policy.environment == {}


CRASH = ("fault=crash", "fault.crash.step=4", "checkpoint.interval_steps=2", "reload=none")


@pytest.mark.parametrize(
    ("wall", "deaths"),
    [
        (Wall("a wall", ("fault.crash",), "go round"), 1),
        (Wall("a wall", ("fault.crash",), "go round", passes=True), 2),
        (Wall("a wall", ("fault.crash",), "go round", environment={"LADDER": "1"}), 2),
    ],
    ids=["no remedy", "a fresh process", "a variable"],
)
def test_no_worker_is_sent_into_the_same_wall(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wall: Wall,
    deaths: int,
) -> None:
    """Real workers die with a text that is a wall here; three restarts would be allowed."""
    ladders = []

    class Seen(RunSupervisor):
        def _handle_ready(self, record: dict) -> None:
            ladders.append(psutil.Process(record["pid"]).environ().get("LADDER"))
            super()._handle_ready(record)

    monkeypatch.setattr(walls, "WALLS", (wall,))
    monkeypatch.setattr(experiment, "RunSupervisor", Seen)
    caplog.set_level("INFO")
    run = start(tmp_path / "run", *CRASH)
    assert run.result.exit_code == 1
    assert len(run.events("worker_died")) == deaths
    assert ladders == [None, wall.environment.get("LADDER")][:deaths]
    assert "a wall; what helps: go round (RuntimeError: fault.crash" in caplog.text


def test_a_worker_that_stood_by_at_a_wall_does_not_lack_the_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first worker calls for the next, cannot save, trains on and dies at a wall."""
    ladders, checkpoints = [], tmp_path / "run" / "checkpoints"

    class Seen(RunSupervisor):
        def _handle_ready(self, record: dict) -> None:
            ladders.append(psutil.Process(record["pid"]).environ().get("LADDER"))
            if len(ladders) == 1:
                checkpoints.write_text("in the way")
            super()._handle_ready(record)

        def _is_at_a_wall(self, end: WorkerExit) -> bool:
            if len(ladders) == 1:
                assert self._standby is not None
                checkpoints.unlink()
            return super()._is_at_a_wall(end)

    wall = Wall("a wall", ("fault.crash",), "go round", environment={"LADDER": "1"})
    monkeypatch.setattr(walls, "WALLS", (wall,))
    monkeypatch.setattr(experiment, "RunSupervisor", Seen)
    leaves = ("reload=interval", "reload.interval_steps=3", "reload.method=process")
    run = start(tmp_path / "run", *leaves, "fault=crash", "fault.crash.step=4")
    assert run.result.exit_code == 1
    assert ladders == [None, "1", "1"]
