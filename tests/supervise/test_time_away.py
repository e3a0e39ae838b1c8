"""Time that a run lay still, and clocks that jump, are no time in reloads."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from pathlib import Path

import pytest

from lab.supervise import experiment
from lab.supervise.experiment import Result
from lab.supervise.run_supervisor import RunSupervisor
from lab.supervise.signals import StopSignals
from lab.supervise.worker_process import WorkerExit
from tests.runs import Run, jsonl, start

HOURS = 10 * 3600.0
BY_PROCESS = ("reload=interval", "reload.interval_steps=3", "reload.method=process")


class CutOff(BaseException):
    """As if the machine went down."""


@pytest.fixture(scope="module")
def cut_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was cut off between the two processes of a reload."""

    class Harmed(RunSupervisor):
        def _run_worker(self, signals: StopSignals) -> WorkerExit:
            super()._run_worker(signals)
            raise CutOff

    folder = tmp_path_factory.mktemp("cut") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "RunSupervisor", Harmed)
        with pytest.raises(CutOff):
            start(folder, *BY_PROCESS)
    return folder


@pytest.fixture
def cut(cut_once: Path, tmp_path: Path) -> Run:
    shutil.copytree(cut_once, tmp_path / "run")
    return Run(tmp_path / "run", Result(1))


def check_figures(run: Run, began: float) -> None:
    assert experiment.resume(run.folder).exit_code == 0
    [reload] = run.events("reload")
    assert reload["step"] == 3
    assert reload["seconds"].keys() == {"save", "drop", "load", "first_step"}
    assert all(reload["seconds"][part] >= 0 for part in ("save", "drop", "load"))
    assert sum(reload["seconds"].values()) < time.monotonic() - began
    assert run.summary["seconds"]["reload"] < run.summary["seconds"]["total"]
    assert 0 < run.summary["overhead_fraction"] < 1


@pytest.mark.parametrize("jump", [HOURS, -HOURS])
def test_a_night_between_two_sittings_is_no_reload_time(
    cut: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """And no clock that was put back meanwhile."""
    (tmp_path / "sitecustomize.py").write_text(
        f"import time\nnow = time.time\ntime.time = lambda: now() + {jump}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check_figures(cut, time.monotonic())


def test_a_checkpoint_of_before_is_gone_on_from(cut: Run) -> None:
    """It holds the time of day, and says nothing of the run's clock."""
    began, folder = time.monotonic(), cut.checkpoint(3)
    state, manifest = (
        json.loads((folder / f"{n}.json").read_text()) for n in ("state", "manifest")
    )
    del manifest["saved_at"]
    manifest["written_at"] = time.time() - HOURS
    state["progress"]["pending"]["decided_at"] = manifest["written_at"] - 0.1
    (folder / "state.json").write_text(json.dumps(state))
    content = (folder / "state.json").read_bytes()
    manifest["files"]["state.json"] = {
        "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    check_figures(cut, began)
    assert cut.events("reload")[0]["seconds"]["drop"] == 0


def test_reloads_of_one_sitting_are_measured(tmp_path: Path) -> None:
    run = start(tmp_path / "run", *BY_PROCESS)
    [reload] = run.events("reload")
    before, after = run.rows[2], run.rows[3]
    parts = reload["seconds"]
    assert all(parts[part] > 0 for part in ("save", "drop", "load"))
    measured = sum(parts[part] for part in ("save", "drop", "load")) + after["step_seconds"]
    assert measured == pytest.approx(after["time"] - before["time"], rel=0.3, abs=0.05)
    assert jsonl(run.folder / "events.jsonl")[-1]["event"] == "run_finished"
