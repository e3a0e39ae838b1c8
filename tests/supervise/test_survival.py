"""Runs that are harmed from outside: they end the same, or say why they cannot."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from lab.config.schema import ConfigError
from lab.records.files import RunBusy, RunFiles
from lab.supervise import experiment
from lab.supervise.experiment import Result
from lab.supervise.run_supervisor import RunSupervisor
from lab.supervise.worker_process import WorkerProcess
from tests.runs import QUICK, Run, assert_ended_as, jsonl, start, started

STEPS = ("train.steps=20", "reload=none", "checkpoint.interval_steps=4")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return start(tmp_path_factory.mktemp("straight") / "run", *STEPS)


@pytest.fixture(scope="module")
def cut_once(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose supervisor was killed after step 10, with its worker gone too."""
    folder = tmp_path_factory.mktemp("cut") / "run"
    command = [sys.executable, str(repo / "train.py"), *QUICK, *STEPS, f"hydra.run.dir={folder}"]
    process = subprocess.Popen(command, cwd=folder.parent, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 10/"):
            process.kill()
            break
    process.wait()
    run = Run(folder, Result(-9))
    with suppress(psutil.NoSuchProcess):
        psutil.Process(run.events("worker_started")[-1]["pid"]).wait(8)
    return run


@pytest.fixture
def cut(cut_once: Run, tmp_path: Path) -> Run:
    """A copy of it, to be harmed further."""
    shutil.copytree(cut_once.folder, tmp_path / "run")
    return Run(tmp_path / "run", cut_once.result)


def newest(run: Run) -> Path:
    steps = [int(p.name.removeprefix("step_")) for p in run.folder.glob("checkpoints/step_*")]
    return run.checkpoint(max(steps))


# --- Death of the supervisor --------------------------------------------------------------------


def test_a_killed_supervisor_leaves_no_orphan_and_is_resumed(cut: Run, straight: Run) -> None:
    assert not (cut.folder / "summary.json").exists()
    assert experiment.resume(cut.folder).exit_code == 0
    assert len(cut.events("resumed")) == 1
    assert_ended_as(cut, straight)


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


HARMS = {
    "a flipped bit": lambda run: flip(newest(run) / "optimizer.safetensors"),
    "a truncated file": lambda run: os.truncate(newest(run) / "adapters.safetensors", 100),
    "no manifest": lambda run: (newest(run) / "manifest.json").unlink(),
    "half a last row": lambda run: os.truncate(
        run.folder / "metrics.jsonl", (run.folder / "metrics.jsonl").stat().st_size - 20
    ),
    "half a last event": lambda run: append(run.folder / "events.jsonl", '{"event": "chec'),
    "no number of a worker": lambda run: append(
        run.folder / "events.jsonl", '{"event": "worker_started", "step": 0, "generation": "x"}\n'
    ),
    "no checkpoint at all": lambda run: shutil.rmtree(run.folder / "checkpoints"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_folder_is_resumed_from_what_is_good(
    cut: Run, straight: Run, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    damaged = newest(cut).name
    HARMS[harm](cut)
    assert experiment.resume(cut.folder).exit_code == 0
    assert_ended_as(cut, straight)
    told = {"a flipped bit": "its checksum is another", "a truncated file": "is cut short: 100 b"}
    if harm in told:
        [warning] = [r.message for r in caplog.records if "checkpoint skipped" in r.message]
        assert damaged in warning
        assert told[harm] in warning


def test_damage_to_the_newest_never_leaves_a_run_going_in_circles(tmp_path: Path) -> None:
    """The only checkpoint is damaged, and reloads by process come before the step it was of."""
    overrides = (
        "train.steps=20", "reload=interval", "reload.interval_steps=4", "reload.method=process",
        "checkpoint.keep=1", "checkpoint.interval_steps=0",
    )  # fmt: skip
    harmed = []

    class Harmed(RunSupervisor):
        def _handle(self, record: dict, worker: WorkerProcess) -> None:
            super()._handle(record, worker)
            if not harmed and self._recorder.last_step == 14:
                worker.kill()
                harmed.append(flip(newest(run) / "adapters.safetensors"))

    run = Run(tmp_path / "run", Result(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "RunSupervisor", Harmed)
        assert start(run.folder, *overrides).result.exit_code == 0
    assert harmed
    assert_ended_as(run, start(tmp_path / "straight", *overrides))


# --- Death and silence of the worker ------------------------------------------------------------


def test_a_worker_that_hangs_is_replaced(tmp_path: Path, straight: Run) -> None:
    stopped = []

    class Harmed(RunSupervisor):
        def _handle(self, record: dict, worker: WorkerProcess) -> None:
            if not stopped and record.get("step") == 9 and record["kind"] == "row":
                stopped.append(os.kill(worker.pid, signal.SIGSTOP))
            super()._handle(record, worker)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "RunSupervisor", Harmed)
        run = start(tmp_path / "run", *STEPS, "worker.timeout_s=6")
    [died] = run.events("worker_died")
    assert "nothing was heard of it for 6 s" in died["cause"]
    assert_ended_as(run, straight)


# --- The budget ---------------------------------------------------------------------------------


def test_a_run_that_cannot_keep_its_budget_ends_with_3_and_a_checkpoint(tmp_path: Path) -> None:
    run = start(tmp_path / "run", "reload=none", "memory.budget_gb=0.01", "train.steps=50")
    assert run.result.exit_code == 3
    assert run.summary["state"] == "budget_exceeded"
    breaches = run.events("budget_exceeded")
    assert breaches[0]["action"] == "reload"
    assert breaches[-1]["action"] == "stop"
    assert 0 < len(run.rows) < 50
    assert newest(run).name == f"step_{len(run.rows)}"
    assert all(e["memory_gb"] > e["budget_gb"] == 0.01 for e in breaches)


def test_the_host_s_memory_is_not_held_against_a_device_s_budget(tmp_path: Path) -> None:
    """``mlx`` may mean an accelerator: which memory counts is known once a worker has said it."""
    overrides = ("reload=none", "reload.metric=mlx", "memory.budget_gb=0.01", "train.steps=20")
    run = start(tmp_path / "run", *QUICK, *overrides)
    assert run.result.exit_code == 3  # of a CPU the process's memory counts
    kinds = [e["event"] for e in jsonl(run.folder / "events.jsonl")]
    assert kinds.index("worker_started") < kinds.index("budget_exceeded")


def test_a_breach_is_answered_by_another_process(tmp_path: Path, straight: Run) -> None:
    """As if the worker had grown: seen from outside it is above the budget once."""
    grown = []

    class Grown(RunSupervisor):
        def _keep_budget(
            self, worker: WorkerProcess, memory_gb: float | None, **when: bool
        ) -> None:
            if not grown and self._recorder.last_step == 6:
                grown.append(memory_gb)
                memory_gb = self._config.memory.budget_gb * 1.1
            super()._keep_budget(worker, memory_gb, **when)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "RunSupervisor", Grown)
        run = start(tmp_path / "run", *STEPS)
    assert run.result.exit_code == 0
    [breach], [reload] = run.events("budget_exceeded"), run.events("reload")
    assert (breach["action"], reload["reason"], reload["method"]) == ("reload", "budget", "process")
    assert len({e["pid"] for e in run.events("worker_started")}) == 2
    assert_ended_as(run, straight)


# --- Two at once, and folders that are not what they were ---------------------------------------


def test_a_run_has_one_writer(cut: Run) -> None:
    files = RunFiles(cut.folder)
    with pytest.raises(ConfigError, match="still going on"):
        experiment.resume(cut.folder)
    with pytest.raises(RunBusy):
        RunFiles(cut.folder)
    files.close()
    RunFiles(cut.folder).close()


def test_runs_that_start_together_share_what_they_make(repo: Path, tmp_path: Path) -> None:
    """Three at once with an empty cache, and two of them want the same folder."""
    folders = ["a", "b", "b"]
    overrides = [*QUICK, "train.steps=3", "reload=none"]
    command = [sys.executable, str(repo / "train.py"), *overrides]
    processes = [
        subprocess.Popen(
            [*command, f"hydra.run.dir={tmp_path / name}"],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"LAB_CACHE_DIR": str(tmp_path / "cache")},
        )
        for name in folders
    ]  # fmt: skip
    said = [process.communicate()[0] for process in processes]
    codes = [process.returncode for process in processes]
    assert codes[0] == 0, said
    assert sorted(codes[1:]) == [0, 2], said
    assert "already holds a run" in said[codes.index(2)]
    losses = [Run(tmp_path / name, Result(0)).column("loss") for name in "ab"]
    assert losses[0] == losses[1]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def begin(path: Path, text: str) -> None:
    path.write_text(text + path.read_text())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, "holds no config.yaml"),
        (lambda f: edit(f / "config.yaml", "steps: 20", "steps: 30"), "was changed"),
        (lambda f: edit(f / "config.yaml", "version: 2", "version: 9"), "version"),
        (lambda f: (f / "config.yaml").write_text("_target_: os.system"), "_target_"),
        (lambda f: (f / "config.yaml").write_bytes(b"\x80\x04K"), "cannot be read"),
        (lambda f: (f / "summary.json").write_text("[]"), "summary.json"),
        (
            lambda f: edit(f / "events.jsonl", '"run_id": "', '"run_id": "../'),
            "line 1: does not begin",
        ),
        (lambda f: begin(f / "events.jsonl", '{"a": 1}\n'), "events.jsonl, line 1"),
        (lambda f: append(f / "events.jsonl", '{"event": "reload", "st\n'), r"events.jsonl, line "),
        (lambda f: append(f / "events.jsonl", '{"a": 1}\n'), r"events.jsonl, line "),
        (lambda f: append(f / "metrics.jsonl", "somebody's"), r"metrics.jsonl, line "),
        (lambda f: (f / "metrics.jsonl").write_text("step,loss\n1,2\n"), "line 1"),
        (lambda f: (f / "events.jsonl").write_text("a diary"), "line 1"),
    ],
)
def test_a_folder_that_is_not_as_it_was_left_is_refused(cut: Run, change, message: str) -> None:
    change(cut.folder)
    before = {p: p.read_bytes() for p in cut.folder.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match=message):
        experiment.resume(cut.folder)
    assert before == {p: p.read_bytes() for p in cut.folder.rglob("*") if p.is_file()}


def test_other_data_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"line {i} " * 5}) + "\n" for i in range(40)))
    run = start(
        tmp_path / "run", "data=jsonl", f"data.path={data}", "fault=crash", "fault.crash.step=5",
        "worker.max_restarts=0",
    )  # fmt: skip
    assert run.result.exit_code == 1
    rows = (run.folder / "metrics.jsonl").read_bytes()
    edit(data, "line 7 ", "line 8 ")
    with pytest.raises(ConfigError, match="is not the data that the run was begun with"):
        experiment.resume(run.folder)
    assert (run.folder / "metrics.jsonl").read_bytes() == rows
    assert not run.events("resumed")


# --- Full disks ---------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path, leaving: int) -> Path:
    """Leave this many bytes free, or what a run that writes meanwhile leaves of them."""
    filler, free = disk / "filler", shutil.disk_usage(disk).free
    with suppress(OSError):
        filler.write_bytes(bytes(free - leaving))
    return filler


def test_checkpoints_that_find_no_room_cost_warnings_and_the_last_one_the_end(
    small_disk: Path, straight: Run, caplog: pytest.LogCaptureFixture
) -> None:
    filler = fill(small_disk, 256 << 10)  # rows fit, checkpoints do not
    run = start(small_disk / "run", *STEPS)
    assert run.result.exit_code == 1
    assert [e["step"] for e in run.events("checkpoint") if "error" in e] == [4, 8, 12, 16, 20]
    assert "checkpoint of step 4 failed" in caplog.text
    assert run.summary["state"] == "failed"
    assert run.column("loss") == straight.column("loss")
    filler.unlink()
    assert experiment.resume(run.folder).exit_code == 0
    assert_ended_as(run, straight)


@pytest.mark.parametrize("room", [0, 8 << 10])
def test_a_disk_that_is_full_from_the_start_is_one_line(
    repo: Path, small_disk: Path, room: int
) -> None:
    fill(small_disk, room)
    overrides = (*QUICK, "train.steps=300", f"hydra.run.dir={small_disk}/run")
    process = started(repo, *overrides, cwd=repo, everything=True)
    said = process.communicate()[0].decode()
    assert process.returncode == 2, said
    why = "cannot be written: No space left on device; choose another folder"
    assert said == f"hydra.run.dir={small_disk}/run: {why}\n"
    assert not (small_disk / "run").exists()


def test_a_sweep_that_finds_no_room_names_its_folder(repo: Path, small_disk: Path) -> None:
    fill(small_disk, 4 << 10)  # its index fits, what Hydra writes does not
    overrides = (*QUICK, "-m", "seed=1,2", f"hydra.sweep.dir={small_disk}/sweep")
    process = started(repo, *overrides, cwd=repo, everything=True)
    said = process.communicate()[0].decode()
    assert process.returncode == 1, said
    why = "No space left on device; make room, then resume the sweep"
    assert f"cannot write to {small_disk}/sweep: {why}\n" in said


def test_rows_that_find_no_room_stop_the_run_and_it_is_resumed(
    small_disk: Path, straight: Run, caplog: pytest.LogCaptureFixture
) -> None:
    fillers = []

    class Filled(RunSupervisor):
        def _handle(self, record: dict, worker: WorkerProcess) -> None:
            super()._handle(record, worker)
            if not fillers and self._recorder.last_step == 5:
                fillers.append(fill(small_disk, 0))

    run = Run(small_disk / "run", Result(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "RunSupervisor", Filled)
        assert start(run.folder, *STEPS).result.exit_code == 1
    assert "No space left on device: the run stops rather than lose rows" in caplog.text
    assert run.column("step") == list(range(1, len(run.rows) + 1))
    fillers[0].unlink()
    assert experiment.resume(run.folder).exit_code == 0
    assert_ended_as(run, straight)


# --- Checkpoints made by hand -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"rng": [', '"rng": [-1, '),
        ('"next_look": 0', '"next_look": "0"'),
        ('"next_look": 0', '"_target_": "os.system", "next_look": 0'),
        ('"reloads": 0', '"reloads": null'),
    ],
)
def test_a_forged_state_is_skipped(
    cut: Run, straight: Run, caplog: pytest.LogCaptureFixture, old: str, new: str
) -> None:
    """Its checksums are right, for whoever forged it could count."""
    state, manifest = newest(cut) / "state.json", newest(cut) / "manifest.json"
    damaged = newest(cut).name
    text = json.dumps(json.loads(state.read_text()))
    assert old in text
    state.write_text(text.replace(old, new))
    described = json.loads(manifest.read_text())
    digest = hashlib.sha256(state.read_bytes()).hexdigest()
    described["files"]["state.json"] = {"bytes": state.stat().st_size, "sha256": digest}
    manifest.write_text(json.dumps(described))
    assert experiment.resume(cut.folder).exit_code == 0
    assert f"checkpoint skipped: {damaged}: state.json" in caplog.text
    assert_ended_as(cut, straight)
