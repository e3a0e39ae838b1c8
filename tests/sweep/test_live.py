"""A sweep while it runs: how far its jobs are by their files, and what a terminal shows of them."""

from __future__ import annotations

import io
import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from lab.records.files import RunFiles
from lab.sweep.index import Job, SweepIndex
from lab.sweep.live import headline, nearest_running, sweep_lines
from lab.sweep.look import JobProgress, SweepLook, last_row, seconds_left
from lab.tracking.text import clean
from tests.compared import write_config
from tests.composing import ROOT
from tests.runs import QUICK, started
from tests.sweep.test_sweep import states
from tests.tracked import make_row

INDEX = SweepIndex(
    version=1,
    overrides=("seed=1,2,3",),
    resumable=True,
    swept=("seed",),
    jobs=(("seed=1",), ("seed=2",), ("seed=3",)),
    side_by_side=1,
    host="here",
)


def begin(sweep: Path, number: int, *, exit_code: int | None = None, steps: int = 0) -> Path:
    """A job of a sweep, with as many rows."""
    folder = sweep / str(number)
    Job(number=number, overrides=(f"seed={number + 1}",), exit_code=exit_code).write(folder)
    write_config(folder, {})
    files = RunFiles(folder)
    for step in range(1, steps + 1):
        files.row(make_row(step, **{"memory/process_gb": 0.25}))
    files.close()
    return folder


def test_how_far_each_job_is_comes_from_its_files(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(INDEX.text())
    began = time.time() - 1
    done = begin(tmp_path, 0, exit_code=0, steps=40)
    text = '{"state": "completed", "final_loss": 2.5, "seconds": {"total": 20.0}}'
    (done / "summary.json").write_text(text)
    running = begin(tmp_path, 1, steps=10)
    with (running / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "lo')
    first, second, third = SweepLook(tmp_path, since=began).jobs()
    assert (first.name, first.state, first.loss, first.seconds) == ("seed=1", "completed", 2.5, 20)
    assert (second.name, second.state) == ("seed=2", "running")
    assert (second.step, second.steps, second.fraction) == (10, 40, 0.25)
    assert (second.loss, second.memory_gb, second.seconds) == (1.0, 0.25, 5.0)
    assert (third.name, third.state) == ("seed=3", "waiting")


def test_what_an_earlier_command_left_waits_until_it_is_resumed(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(INDEX.text())
    begin(tmp_path, 0, steps=3)
    begin(tmp_path, 1, exit_code=1)
    later = SweepLook(tmp_path, since=time.time() + 60).jobs()
    assert [job.state for job in later] == ["waiting"] * 3
    now = SweepLook(tmp_path, since=0).jobs()
    assert [job.state for job in now] == ["running", "failed", "waiting"]


def test_looking_takes_no_lock_from_a_job(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(INDEX.text())
    folder = begin(tmp_path, 0, steps=3)
    files = RunFiles(folder)
    assert SweepLook(tmp_path, since=0).jobs()[0].step == 3
    files.close()


@pytest.mark.parametrize("content", [b"", b"\n", b"{", b"[1]\n", b"\xff\n" * 9000])
def test_a_file_without_a_row_has_no_last_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(content)
    assert last_row(tmp_path / "metrics.jsonl") == {}
    assert last_row(tmp_path / "nothing") == {}


def job(number: int, state: str, **fields: object) -> JobProgress:
    return JobProgress(number=number, name=f"seed={number}", state=state, **fields)  # type: ignore[arg-type]


def test_the_rest_is_estimated_from_what_the_jobs_took() -> None:
    ended = job(0, "completed", step=1, steps=1, seconds=20.0)
    half = job(1, "running", step=20, steps=40, seconds=10.0)
    jobs = [ended, half, job(2, "waiting"), job(3, "waiting")]
    assert seconds_left(jobs, 1) == 50
    assert seconds_left(jobs, 2) == 25
    assert seconds_left(jobs[:2], 2) == 10  # the last one ends alone
    assert seconds_left(jobs[2:], 1) is None
    assert headline(jobs, 2) == "1/4 done, 1 running, 0:25 left"
    jobs[0] = job(0, "failed", step=1, steps=1, seconds=1.0)
    assert headline(jobs, 1) == "1/4 done (1 not completed), 1 running, 0:50 left"


progresses = st.builds(
    JobProgress,
    number=st.integers(0, 9999),
    name=st.text(max_size=120).map(clean),
    state=st.sampled_from(["waiting", "running", "completed", "failed", "budget_exceeded"]),
    step=st.integers(0, 100_000),
    steps=st.integers(0, 100_000),
    seconds=st.none() | st.floats(0, 1e6),
    loss=st.none() | st.floats(0, 1e4),
    memory_gb=st.none() | st.floats(0, 999),
)


@settings(max_examples=30)
@given(st.lists(progresses, min_size=1, max_size=6, unique_by=lambda one: one.number))
def test_80_columns_hold_a_line_for_each_job(jobs: list[JobProgress]) -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, color_system=None)
    console.print(sweep_lines(jobs, 2, room=9, width=80))
    lines = out.getvalue().splitlines()
    assert len(lines) == 1 + len(jobs)
    for line, number in zip(lines[1:], sorted(one.number for one in jobs), strict=True):
        assert line.lstrip().startswith(f"{number} ")


@given(
    st.lists(st.sampled_from(["waiting", "running", "completed"]), max_size=40), st.integers(1, 9)
)
def test_where_not_all_jobs_have_a_line_those_that_run_do(kinds: list[str], room: int) -> None:
    jobs = [job(number, state) for number, state in enumerate(kinds)]
    shown = nearest_running(jobs, room)
    assert len(shown) == min(len(jobs), room)
    assert [one.number for one in shown] == sorted(one.number for one in shown)
    running = [one for one in jobs if one.state == "running"]
    assert len([one for one in shown if one.state == "running"]) == min(len(running), room)


def test_a_job_that_failed_says_why_and_one_that_was_interrupted_nothing(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(INDEX.text())
    failed, killed, cut = (
        begin(tmp_path, n, exit_code=code) for n, code in enumerate((1, -9, 130))
    )
    for folder in (failed, killed, cut):
        log = "run failed after 2 steps\n  error    ValueError: why\n  run      here\n"
        (folder / "train.log").write_text(log)
    look = SweepLook(tmp_path, since=0)
    said = [look.failure(one) for one in look.jobs()]
    assert said == [
        "job 0 ended with exit code 1: ValueError: why",
        "job 1 was killed by SIGKILL",
        "",
    ]
    with (failed / "train.log").open("a") as file:
        file.write("\n" + said[0] + "\n")  # as the launcher's process does
    assert look.failure(look.jobs()[0]) == said[0]


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_on_a_terminal_the_jobs_write_into_their_logs_only(tmp_path: Path, launcher: str) -> None:
    ours, theirs = os.openpty()
    chosen = () if launcher == "basic" else (f"hydra/launcher={launcher}", "worker.threads=1")
    sweep = ("hydra.sweep.dir=sweep", "-m", "fault=crash,none", *chosen)
    asked = (*QUICK, "train.steps=20", *sweep)
    process = started(ROOT, *asked, cwd=tmp_path, terminal=theirs)
    os.close(theirs)
    said = b""
    while True:
        try:
            said += os.read(ours, 4096)
        except OSError:  # nobody has the other end any more
            break
    os.close(ours)
    assert process.wait(60) == 1
    text = said.decode()
    assert states(tmp_path / "sweep") == {0: "failed", 1: "completed"}
    why = r"RuntimeError: fault.crash: .+\r\n"
    above = re.search(rf"\x1b\[2Kjob 0 ended with exit code 1: {why}", text)
    assert above
    assert "/20 " in text[above.end() :]  # at once, while the other job is running
    assert text.count("job 0 ended with exit code 1") == 1
    assert re.search(rf"why +sweep/0/train.log: {why}", text)
    assert "/2 done, " in text
    assert "fault=none" in text
    assert "tok/s" not in text
    log = (tmp_path / "sweep" / "1" / "train.log").read_text()
    assert "step 20/20" in log
    assert log.count("run completed") == 1
    assert "\x1b" not in log
