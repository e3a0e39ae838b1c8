"""The folder that shows ``wandb leet`` one sweep."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from wandb.util import get_core_path

from lab.config.keys import dump
from lab.records.files import RunFiles
from lab.records.origin import Origin
from lab.sweep.index import Job
from lab.tracking.leet import link_runs
from lab.tracking.service import wait_for_files
from lab.tracking.wandb import WandbTracker
from tests.tracked import SUMMARY, make_config, make_row


def make_job(sweep: Path, number: int) -> Path:
    """A job's folder, and its run in W&B's."""
    run_dir, config = sweep / str(number), make_config()
    Job(number=number, overrides=(f"seed={number}",)).write(run_dir)
    (run_dir / "config.yaml").write_text(dump(config))
    origin, files = Origin.new(run_dir / "config.yaml", sweep.name), RunFiles(run_dir)
    files.event({"event": "run_started", "step": 0, "time": 0.0, **origin.event()})
    tracker = WandbTracker(config, outputs=sweep.parents[2], run_dir=run_dir, origin=origin)
    tracker.log(make_row(1))
    assert tracker.close(SUMMARY, 0) == []
    files.close()
    return run_dir


def test_only_the_runs_of_the_sweep_are_shown_by_name(tmp_path: Path) -> None:
    sweeps = [tmp_path / "outputs" / "sweeps" / "day" / name for name in ("one", "two")]
    runs = [[make_job(sweep, number) for number in (0, 1)] for sweep in sweeps]
    (sweeps[0] / "sweep.json").write_text(json.dumps({"swept": ["seed"]}))
    wait_for_files()
    folder = sweeps[0] / "wandb"
    for _ in range(2):  # the second takes the place of the first
        assert link_runs(sweeps[0], runs[0]) == folder
        shown = sorted(path.name.split("-", 2)[2] for path in folder.iterdir())
        assert shown == ["0 seed=0", "1 seed=1"]
    for file in folder.glob("*/*.wandb"):
        inspect = [get_core_path(), "leet", "inspect", "--no-observability", "--json", "--summary"]
        done = subprocess.run([*inspect, "--run-file", str(file)], capture_output=True, check=True)
        assert json.loads(done.stdout)["name"].removeprefix("job-") in file.name


def test_a_sweep_without_offline_runs_has_no_such_folder(tmp_path: Path) -> None:
    assert link_runs(tmp_path, [tmp_path / "0"]) is None
    assert list(tmp_path.iterdir()) == []
