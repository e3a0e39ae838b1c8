"""Whole runs with real workers: what they write, what they do when something goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab.config.keys import Config
from lab.protocol import Command
from lab.supervise import experiment
from lab.supervise.run_supervisor import RunSupervisor
from lab.supervise.worker_process import WorkerProcess
from tests.runs import QUICK, Run, start

ROW_KEYS = """
    step time loss tokens learning_rate grad_norm step_seconds tokens_per_second
    data/padded_fraction memory/active_gb memory/cache_gb memory/peak_gb memory/process_gb
    memory/available_gb memory/swap_gb memory/slope_mb_per_step memory/trend_mb_per_step
    reload/count reload/generation
""".split()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return start(tmp_path_factory.mktemp("straight") / "run", "reload=none")


LONG = ("train.steps=40", "reload=none", "checkpoint.interval_steps=3")


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that others end like, which are harmed or interrupted on their way."""
    return start(tmp_path_factory.mktemp("long") / "run", *LONG)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that validates, reloads and learns."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return start(folder, "train.steps=70", "train.val_interval_steps=35", "reload.interval_steps=8")


def same_training(run: Run, other: Run) -> bool:
    digests = [r.summary["weights_sha256"] for r in (run, other)]
    return run.column("loss") == other.column("loss") and digests[0] == digests[1]


def test_the_files_of_a_run(whole: Run) -> None:
    run = whole
    assert run.result.exit_code == 0
    assert run.column("step") == list(range(1, 71))
    assert [row["step"] for row in run.rows if "val_loss" in row] == [35, 70]
    assert all(set(ROW_KEYS) == row.keys() - {"val_loss"} for row in run.rows)
    assert run.column("time") == sorted(run.column("time"))
    losses = run.column("loss")
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert run.column("reload/count") == [(step - 1) // 8 for step in range(1, 71)]
    assert Config.load(run.folder / "config.yaml").train.steps == 70
    assert (run.folder / "memory.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in (run.folder / "checkpoints").iterdir()) == ["step_64", "step_70"]


def test_only_the_first_worker_tells_what_data_and_model_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To know them takes long: samples are counted and weights hashed, and no cache keeps that."""
    told = []

    class Seen(RunSupervisor):
        def _handle_ready(self, record: dict) -> None:
            found = [key for key in record["environment"] if key.endswith("_fingerprint")]
            told.append((len(record["facts"]), len(found)))
            super()._handle_ready(record)

    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "digests").write_text("in the way of the folder")
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(experiment, "RunSupervisor", Seen)
    leaves = ("reload=interval", "reload.interval_steps=2", "reload.method=process")
    run = start(tmp_path / "run", *leaves)
    assert run.result.exit_code == 0
    (facts, fingerprints), *later = told
    assert (facts > 2, fingerprints) == (True, 4)
    assert later == [(0, 0)] * 2


def test_the_summary(whole: Run) -> None:
    run, summary, rows = whole, whole.summary, whole.rows
    assert summary["state"] == "completed"
    assert summary["steps"] == 70
    assert summary["final_loss"] == rows[-1]["loss"]
    assert summary["reloads"] == {"interval": 8}
    assert summary["peak_process_gb"] == max(run.column("memory/process_gb"))
    seconds = summary["seconds"]
    assert seconds["train"] == pytest.approx(sum(run.column("step_seconds")))
    parts = seconds["train"] + seconds["startup"]
    assert 0 < parts < seconds["total"]
    busy = seconds["total"] - seconds["startup"]
    overhead = (seconds["reload"] + seconds["checkpoint"]) / busy
    assert summary["overhead_fraction"] == pytest.approx(overhead)
    known = {"python", "mlx", "mlx_lm", "device", "blas", "threads", "data_fingerprint", "hydra"}
    assert known <= summary["environment"].keys()


@pytest.mark.parametrize("method", ["in_process", "process"])
def test_a_reload_tells_what_it_did(tmp_path: Path, method: str) -> None:
    run = start(tmp_path / "run", "reload.interval_steps=3", f"reload.method={method}")
    [reload] = run.events("reload")
    assert (reload["step"], reload["reason"], reload["method"]) == (3, "interval", method)
    figures = {key for key in ROW_KEYS if key.startswith("memory/") and key.endswith("_gb")}
    assert reload["before"] == {key: run.rows[2][key] for key in figures}
    assert reload["after"] == {key: run.rows[3][key] for key in figures}
    assert reload["seconds"].keys() == {"save", "drop", "load", "first_step"}
    assert all(reload["seconds"][part] > 0 for part in ("save", "drop", "load"))
    workers = [e["pid"] for e in run.events("worker_started")]
    assert len(set(workers)) == (2 if method == "process" else 1)
    assert run.column("reload/generation") == [0] * 3 + [len(workers) - 1] * 3


def test_without_checkpoints_reloads_are_skipped_and_said(
    tmp_path: Path, straight: Run, caplog
) -> None:
    run = start(tmp_path / "run", "checkpoint.enabled=false", "reload.interval_steps=2")
    assert run.result.exit_code == 0
    assert [e["step"] for e in run.events("reload_skipped")] == [2, 4]
    assert not run.events("reload")
    assert not (run.folder / "checkpoints").exists()
    assert [r.message for r in caplog.records if "skipped" in r.message].__len__() == 1
    assert same_training(run, straight)


def test_a_threshold_that_reloads_cannot_reach_backs_off(tmp_path: Path, straight: Run) -> None:
    run = start(
        tmp_path / "run", "reload=threshold", "reload.memory_threshold_gb=0.01", "train.steps=6"
    )
    assert [e["step"] for e in run.events("reload")] == [1, 3]
    assert [e["step"] for e in run.events("reload_ineffective")] == [1, 3]
    assert same_training(run, straight)


def test_the_back_off_survives_a_respawn(tmp_path: Path, straight: Run) -> None:
    run = start(
        tmp_path / "run", "reload=threshold", "reload.memory_threshold_gb=0.01",
        "reload.method=process",
    )  # fmt: skip
    assert [e["step"] for e in run.events("reload")] == [1, 3]
    assert same_training(run, straight)


def test_the_cache_is_cleared_every_n_steps(tmp_path: Path) -> None:
    run = start(tmp_path / "run", "reload=none", "memory.cache_clear_interval=2")
    assert [e["step"] for e in run.events("cache_clear")] == [2, 4, 6]


def test_a_crash_at_one_step_ends_the_run_after_its_restarts(tmp_path: Path) -> None:
    run = start(
        tmp_path / "run", "fault=crash", "fault.crash.step=4", "checkpoint.interval_steps=2",
        "worker.max_restarts=2",
    )  # fmt: skip
    assert run.result.exit_code == 1
    assert run.summary["state"] == "failed"
    assert len(run.events("worker_died")) == 3
    assert "fault.crash" in run.events("worker_died")[0]["error"]
    assert [e["step"] for e in run.events("worker_started")] == [0, 2, 2]
    assert len(run.events("fault_armed")) == 3
    assert run.column("step") == [1, 2, 3]


HARMS = {
    "killed by SIGKILL": lambda worker: os.kill(worker.pid, signal.SIGKILL),
    "it stopped without being asked": lambda worker: worker.send(Command.STOP),
}


@pytest.mark.parametrize("cause", HARMS)
def test_a_lost_worker_is_replaced_and_the_run_ends_the_same(
    tmp_path: Path, long: Run, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    harmed = []

    class Harmed(RunSupervisor):
        def _handle(self, record: dict, worker: WorkerProcess) -> None:
            if not harmed and record.get("step") == 5 and record["kind"] == "row":
                harmed.append(worker.pid)
                HARMS[cause](worker)
            super()._handle(record, worker)

    monkeypatch.setattr(experiment, "RunSupervisor", Harmed)
    run = start(tmp_path / "run", *LONG)
    [died] = run.events("worker_died")
    assert died["cause"] == cause
    assert len(run.events("worker_started")) == 2
    assert not run.events("replay_mismatch")
    assert same_training(run, long)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_is_resumed_to_the_same_end(
    repo: Path, tmp_path: Path, long: Run, number: signal.Signals, code: int
) -> None:
    folder = tmp_path / "cut"
    command = [sys.executable, str(repo / "train.py"), *QUICK, *LONG, f"hydra.run.dir={folder}"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step "):
            process.send_signal(number)
            break
    rest = process.stdout.read()
    assert process.wait() == code
    assert "lab resume" in rest
    cut = Run(folder, experiment.Result(code))
    assert cut.summary["state"] == "interrupted"
    assert 0 < len(cut.rows) < 40

    resumed = subprocess.run(
        [sys.executable, "-m", "lab.cli", "resume", str(folder)],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(repo)}, check=False,
    )  # fmt: skip
    assert resumed.returncode == 0
    assert cut.column("step") == list(range(1, 41))
    assert cut.column("time") == sorted(cut.column("time"))
    assert same_training(cut, long)


def test_a_diverged_run_stops_and_keeps_its_last_good_checkpoint(tmp_path: Path) -> None:
    run = start(
        tmp_path / "run", "reload=none", "optimizer=sgd", "optimizer.learning_rate=1e30",
        "checkpoint.interval_steps=1", "train.max_grad_norm=0",
    )  # fmt: skip
    assert run.result.exit_code == 1
    assert run.summary["state"] == "failed"
    [event] = run.events("nonfinite")
    assert event["step"] == len(run.rows) > 1
    kept = sorted(int(p.name.split("_")[1]) for p in (run.folder / "checkpoints").iterdir())
    assert kept[-1] == event["step"] - 1
    last = run.rows[-1]
    assert event["what"] == ("loss" if last["loss"] is None else "gradient")
    assert last["loss"] is None or last["grad_norm"] is None


def test_a_folder_that_holds_a_run_is_refused(straight: Run, caplog) -> None:
    before = (straight.folder / "metrics.jsonl").read_bytes()
    assert start(straight.folder).result.exit_code == 2
    assert "already holds a run" in caplog.text
    assert (straight.folder / "metrics.jsonl").read_bytes() == before


def test_what_the_worker_finds_wrong_leaves_nothing_behind(tmp_path: Path, caplog) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": "good"}\n{"text": 3}\n')
    run = start(tmp_path / "runs" / "day" / "run", "data=jsonl", f"data.path={tmp_path}/data.jsonl")
    assert run.result.exit_code == 2
    assert "data.jsonl: line 2" in caplog.text
    assert not (tmp_path / "runs").exists()


def test_a_refused_run_takes_nothing_of_the_users_with_it(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": 3}\n')
    assert start(tmp_path, "data=jsonl", f"data.path={tmp_path}/data.jsonl").result.exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]


NEVER_IN_A_WORKER = (
    *("hydra", "omegaconf", "wandb", "transformers", "numpy"),
    *("statistics", "lab.records.profile"),  # only a run that is profiled pays for it
)


@pytest.mark.parametrize(
    ("modules", "never"),
    [
        ("lab.train.worker", NEVER_IN_A_WORKER),
        (
            "lab.supervise.experiment lab.compose.config lab.tracking.wandb lab.plots.memory_plot",
            ("mlx",),
        ),
    ],
)
def test_who_imports_what(repo: Path, modules: str, never: tuple[str, ...]) -> None:
    imports = "; ".join(f"import {name}" for name in modules.split())
    script = f"import sys; {imports}; print([m for m in {never!r} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=repo, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_no_step_reload_or_checkpoint_brings_more_into_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "modules.txt"
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, sys\n"
        "if 'lab.train.worker' in sys.orig_argv:\n"
        f"    atexit.register(lambda: print(*sys.modules, file=open({str(told)!r}, 'w')))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    start(tmp_path / "run", "adapter=lora", "train.val_interval_steps=3")
    modules = told.read_text().split()
    assert "lab.train.loop" in modules
    assert not set(NEVER_IN_A_WORKER) & set(modules)


UNREADABLE = """import os
pread = os.pread

def fails(descriptor, *arguments):
    if os.readlink(f"/proc/self/fd/{descriptor}").startswith("/proc/"):
        raise OSError("no such reading here")
    return pread(descriptor, *arguments)

os.pread = fails
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is Linux that is made unreadable")
def test_a_reading_that_fails_is_null_and_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(UNREADABLE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = start(
        tmp_path / "run", "reload=interval_or_threshold", "reload.interval_steps=4",
        "reload.memory_threshold_gb=0.001", "reload.metric=process",
    )  # fmt: skip
    assert run.result.exit_code == 0
    for figure in ("process", "available", "swap"):
        assert run.column(f"memory/{figure}_gb") == [None] * 6
    assert None not in run.column("memory/active_gb")
    [reload] = run.events("reload")
    assert (reload["reason"], reload["freed_gb"]) == ("interval", None)
    assert run.summary["peak_process_gb"] is None
