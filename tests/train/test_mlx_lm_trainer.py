"""``trainer=mlx_lm``: mlx-lm's own ``train()`` in the lab's worker, on the same terms."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from lab.records.rows import METRIC_KEYS
from lab.supervise import experiment
from lab.supervise.experiment import Result
from lab.supervise.run_supervisor import RunSupervisor
from lab.supervise.worker_process import WorkerProcess
from tests.runs import QUICK, Run, start, started

MLX_LM = ("trainer=mlx_lm", "train.compile=false")  # a cold compile takes a minute on a CPU
WHOLE = (
    *MLX_LM, "train.steps=30", "train.max_seq_length=48", "adapter=lora", "adapter.dropout=0.1",
    "train.grad_accumulation_steps=2", "train.val_interval_steps=10", "train.val_batches=2",
    "checkpoint.interval_steps=10", "reload.interval_steps=8",
)  # fmt: skip


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return start(tmp_path_factory.mktemp("straight") / "run", *WHOLE)


def assert_ended_as(run: Run, straight: Run) -> None:
    for key in ("step", "loss", "learning_rate", "tokens", "data/padded_fraction"):
        assert run.column(key) == straight.column(key)
    assert run.summary["state"] == "completed"
    assert run.summary["weights_sha256"] == straight.summary["weights_sha256"]
    assert not run.events("replay_mismatch")


# --- Both trainers train the same thing ---------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        "adapter=full optimizer.schedule=cosine train.mask_prompt=true",
        "adapter=lora optimizer=muon train.grad_accumulation_steps=2 optimizer.warmup_steps=2",
    ],
)
def test_on_the_same_batch_both_learn_the_same(tmp_path: Path, overrides: str) -> None:
    """As many samples as a batch holds, cut to one length: mlx-lm pads none, and adds no token."""
    data = tmp_path / "data.jsonl"
    samples = ({"prompt": "?" * n, "completion": f"{n}, {n}, " * 20} for n in (5, 30))
    data.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    given = (
        "data=jsonl", f"data.path={data}", "data.val_fraction=0", "train.max_seq_length=48",
        "train.max_grad_norm=0", "reload=none", *overrides.split(),
    )  # fmt: skip
    ours, theirs = start(tmp_path / "lab", *given), start(tmp_path / "mlx_lm", *MLX_LM, *given)
    assert theirs.column("loss") == pytest.approx(ours.column("loss"), rel=1e-5)
    assert ours.column("loss")[0] > 1.001 * ours.column("loss")[-1]
    assert theirs.column("tokens") == ours.column("tokens")
    assert theirs.column("learning_rate") == pytest.approx(ours.column("learning_rate"))
    assert set(theirs.column("data/padded_fraction")) == {0}


# --- What it leaves -----------------------------------------------------------------------------


def test_it_leaves_what_any_run_leaves(straight: Run) -> None:
    assert straight.result.exit_code == 0
    rows = straight.rows
    assert straight.column("step") == list(range(1, 31))
    assert all(set(METRIC_KEYS) == row.keys() - {"val_loss"} for row in rows)
    # mlx-lm validates before the first step too.
    assert [row["step"] for row in rows if "val_loss" in row] == [1, 10, 20, 30]
    assert straight.column("grad_norm") == [None] * 30
    assert all(0 < tokens <= 2 * 2 * 47 for tokens in straight.column("tokens"))
    assert all(seconds > 0 for seconds in straight.column("step_seconds"))
    summary = straight.summary
    assert (summary["state"], summary["reloads"]) == ("completed", {})
    assert summary["seconds"]["train"] + summary["seconds"]["startup"] < summary["seconds"]["total"]


def test_it_saves_as_mlx_lm_does_and_last_as_the_lab(straight: Run) -> None:
    assert [e["step"] for e in straight.events("checkpoint")] == [10, 20, 30]
    theirs, ours = straight.folder / "checkpoints" / "mlx_lm", straight.checkpoint(30)
    names = ["adapter_config.json", "adapters.safetensors"]
    numbered = [f"{iteration:07d}_adapters.safetensors" for iteration in (20, 40, 60)]
    assert sorted(p.name for p in theirs.iterdir()) == sorted([*names, *numbered])
    settings = [json.loads((folder / names[0]).read_text()) for folder in (theirs, ours)]
    assert settings[0] == settings[1]
    assert settings[0]["lora_parameters"]["keys"]
    saved = mx.load(str(ours / names[1]))
    for name in (names[1], numbered[-1]):
        found = mx.load(str(theirs / name))
        assert found.keys() == saved.keys()
        assert all(mx.array_equal(found[key], saved[key]) for key in saved)


def test_a_reload_is_skipped_each_time_it_is_due(straight: Run) -> None:
    skipped = [(e["step"], e["reason"]) for e in straight.events("reload_skipped")]
    assert skipped == [(8, "interval"), (16, "interval"), (24, "interval")]
    assert not straight.events("reload")


def test_it_can_leave_no_weights_and_prints_nothing_of_its_own(repo: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", Result(0))
    overrides = (*QUICK, *MLX_LM, "checkpoint.enabled=false", f"hydra.run.dir={run.folder}")
    said = started(repo, *overrides, cwd=tmp_path, everything=True).communicate()[0].decode()
    assert "step 6/6" in said
    assert "train_loss" not in said
    assert "\x1b" not in said
    assert not (run.folder / "checkpoints").exists()
    assert not list(run.folder.rglob("*.safetensors"))
    assert run.summary["overhead_fraction"] == 0


# --- Signals, deaths, budget --------------------------------------------------------------------


def test_a_killed_worker_is_replaced_and_replays_the_same(
    tmp_path: Path,
    straight: Run,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    harmed = []

    class Harmed(RunSupervisor):
        def _handle(self, record: dict, worker: WorkerProcess) -> None:
            if not harmed and record.get("step") == 12 and record["kind"] == "row":
                harmed.append(os.kill(worker.pid, signal.SIGKILL))
            super()._handle(record, worker)

    monkeypatch.setattr(experiment, "RunSupervisor", Harmed)
    run = start(tmp_path / "run", *WHOLE)
    assert len(run.events("worker_died")) == 1
    assert [e["step"] for e in run.events("worker_started")] == [0, 0]
    assert [e["step"] for e in run.events("reload_skipped")] == [8, 16, 24]
    assert "begins again at step 1" in caplog.text
    assert_ended_as(run, straight)


def test_an_interrupted_run_begins_again_and_says_so(
    repo: Path, tmp_path: Path, straight: Run
) -> None:
    cut = Run(tmp_path / "run", Result(130))
    overrides = (*QUICK, *WHOLE, f"hydra.run.dir={cut.folder}")
    process = started(repo, *overrides, cwd=tmp_path, everything=True)
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith(b"step "))
    process.send_signal(signal.SIGINT)
    said = process.stdout.read().decode()
    assert process.wait() == 130, said
    assert "a resumed run begins again at step 1" in said
    assert cut.summary["state"] == "interrupted"
    kept = (cut.folder / "metrics.jsonl").read_bytes()
    assert 0 < len(cut.rows) < 30

    resumed = subprocess.run(
        [sys.executable, "-m", "lab.cli", "resume", str(cut.folder)],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(repo)}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert "begins again at step 1" in resumed.stdout + resumed.stderr
    assert (cut.folder / "metrics.jsonl").read_bytes().startswith(kept)
    assert_ended_as(cut, straight)


def test_a_budget_that_is_exceeded_ends_it(tmp_path: Path) -> None:
    run = start(tmp_path / "run", *MLX_LM, "memory.budget_gb=0.01", "train.steps=50")
    assert run.result.exit_code == 3
    assert [e["action"] for e in run.events("budget_exceeded")] == ["stop"]
    assert len(run.rows) < 50


def test_a_crash_comes_at_its_step(tmp_path: Path) -> None:
    run = start(
        tmp_path / "run", *MLX_LM, "fault=crash", "fault.crash.step=3", "worker.max_restarts=0",
        "train.grad_accumulation_steps=2",
    )  # fmt: skip
    assert run.result.exit_code == 1
    assert run.column("step") == [1, 2]
    assert "fault.crash" in run.events("worker_died")[0]["error"]


def test_a_loss_that_is_not_finite_ends_it(tmp_path: Path) -> None:
    run = start(tmp_path / "run", *MLX_LM, "optimizer=sgd", "optimizer.learning_rate=1e30")
    assert run.result.exit_code == 1
    [event] = run.events("nonfinite")
    assert event["step"] == len(run.rows) > 1
    assert run.rows[-1]["loss"] is None
