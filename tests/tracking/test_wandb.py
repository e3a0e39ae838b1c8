"""A run in W&B, as W&B itself reads it back, whatever became of the run or of W&B."""

from __future__ import annotations

import collections
import json
import logging
import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import wandb
from wandb.util import get_core_path

from lab.config.keys import dump
from lab.config.schema import to_dict
from lab.records.files import RunFiles
from lab.records.origin import Origin
from lab.records.rows import MEMORY_KEYS
from lab.supervise import experiment
from lab.supervise.experiment import Result
from lab.tracking.wandb import WandbTracker
from tests.processes import running
from tests.runs import QUICK, Run, start, started
from tests.tracked import SUMMARY, make_config, make_reload, make_row

ORIGIN = Origin("abc", "a sweep", "")
STEPS = ("train.steps=20", "reload=none", "checkpoint.interval_steps=4")


def inspect(run_dir: Path, *options: str) -> str:
    """What ``wandb leet inspect --json`` prints; its own front takes a second to import."""
    wandb.teardown()  # a run's file may be closed some time after its finish() has returned
    (file,) = run_dir.glob("*.wandb")
    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", *options]
    return subprocess.run(
        [*command, "--run-file", str(file)], check=True, capture_output=True, text=True
    ).stdout


def read_back(run_dir: Path) -> dict[str, list[dict]]:
    """The records of a W&B run by type."""
    found = collections.defaultdict(list)
    for record in map(json.loads, inspect(run_dir).splitlines()):
        found[record["type"]].append(record[record["type"]])
    return found


def history(records: dict[str, list[dict]]) -> list[dict[str, object]]:
    """The rows logged, without what W&B adds to them."""
    rows = [record["item"] for record in records["history"]]
    return [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]


@pytest.fixture(autouse=True)
def _no_wandb_settings_of_this_user(monkeypatch):
    for name in list(os.environ):
        if name.startswith("WANDB_") and name != "WANDB_SERVICE":
            monkeypatch.delenv(name)


def test_wandb_offline_holds_the_run(tmp_path):
    """A run that is resumed at step 3 becomes one whole W&B run."""
    run_dir, outputs = tmp_path / "run", tmp_path / "outputs"
    run_dir.mkdir()
    files, config = RunFiles(run_dir), make_config()
    rows = [make_row(step) for step in range(1, 6)]
    rows[3] |= {"val_loss": 3.5, "memory/slope_mb_per_step": 0.5}
    rows[4] |= {"loss": math.nan}
    events = [make_reload(1), {"event": "cache_clear", "step": 2}, make_reload(4)]
    for row in rows[:2]:
        files.row(row)
    files.event(events[0])
    tracker = WandbTracker(config, outputs=outputs, run_dir=run_dir, origin=ORIGIN)
    for row in rows[2:]:
        files.row(row)
        tracker.log(row)
    for event in events[1:]:
        files.event(event)
        tracker.event(event)
    assert tracker.close(SUMMARY, 0) == []

    (folder,) = (outputs / "wandb").glob("offline-run-*")
    reloads = [
        {"step": s, "reload/before_gb": 1.5, "reload/after_gb": 0.75, "reload/reason": "interval"}
        for s in (1, 4)
    ]
    rows[4] |= {"loss": None}
    records = read_back(folder)
    logged = [*rows[:2], reloads[0], *rows[2:], reloads[1]]
    assert history(records) == [{k: v for k, v in r.items() if v is not None} for r in logged]
    whole = json.loads(inspect(folder, "--summary"))
    assert whole["name"] == "a run"
    assert whole["project"] == "p"
    assert whole["tags"] == ["mlx", "interval_or_threshold", "tiny", "a sweep", "x", "y"]
    assert whole["config"].items() >= json.loads(json.dumps(to_dict(config))).items()
    assert (whole["state"], whole["exit_code"]) == ("finished", 0)
    assert whole["summary"]["step"] == 5
    assert whole["summary"]["state"] == "completed"
    assert whole["summary"]["reloads"] == {"interval": 2, "leak": 1}
    assert whole["summary"]["tokens_per_second"] == 1234.5
    assert records["run"][0]["run_group"] == "a sweep"
    metrics = {metric.get("name", metric.get("glob_name")): metric for metric in records["metric"]}
    assert all(metrics[key]["step_metric"] == "step" for key in ("*", *MEMORY_KEYS))
    wanted = {"min": True, "max": True, "mean": True, "last": True}
    assert all(metrics[key]["summary"] == wanted for key in MEMORY_KEYS)


def test_wandb_runs_of_one_process_do_not_mix(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_NAME", "from outside")
    for number, overrides in enumerate(([], ["name=mine"]), 1):
        tracker = WandbTracker(
            make_config(name="mine"),
            outputs=tmp_path,
            run_dir=tmp_path,
            origin=Origin(f"run{number}", None, ""),
            overrides=overrides,
        )
        tracker.log(make_row(number))
        assert tracker.close({"state": "failed"}, number) == []
    runs = [read_back(folder) for folder in (tmp_path / "wandb").glob("offline-run-*")]
    found = {
        (
            run["run"][0]["display_name"],
            run["exit"][0]["exit_code"],
            *(row["step"] for row in history(run)),
        )
        for run in runs
    }
    assert found == {("from outside", 1, 1), ("mine", 2, 2)}


def test_wandb_whose_folder_cannot_be_made_is_told_and_stops_nothing(tmp_path, caplog):
    outputs = tmp_path / "outputs"
    outputs.write_text("a file")
    with caplog.at_level(logging.WARNING):
        tracker = WandbTracker(make_config(), outputs=outputs, run_dir=tmp_path, origin=ORIGIN)
        for step in range(1, 4):
            tracker.log(make_row(step))
        (line,) = tracker.close(SUMMARY, 0)
    assert line.startswith("W&B failed: ")
    assert line.endswith("metrics.jsonl has every row")
    assert [r.message.startswith("W&B failed, training goes on") for r in caplog.records] == [True]


ONLINE = """
import sys, time
from pathlib import Path
from lab.config.keys import Config
from lab.records.origin import Origin
from lab.tracking.wandb import WandbTracker
folder = Path(sys.argv[1])
tracker = WandbTracker(
    Config.load(folder / "config.yaml"),
    outputs=folder,
    run_dir=folder,
    origin=Origin("abc", None, ""),
    finish_seconds=float(sys.argv[2]),
)
tracker.log({"step": 1, "loss": 1.0})
began = time.monotonic()
print("\\n".join(tracker.close({"state": "completed"}, 0)))
print(time.monotonic() - began)
"""


def close_online(folder: Path, finish_seconds: float, **env: str) -> tuple[list[str], float]:
    """The lines and seconds of ``close`` in a process of its own: W&B reads its settings once."""
    (folder / "config.yaml").write_text(dump(make_config("online")))
    out = subprocess.run(
        [sys.executable, "-c", ONLINE, str(folder), str(finish_seconds)],
        env=os.environ | {"HOME": str(folder), "NETRC": str(folder / "netrc")} | env,
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert env.get("WANDB_API_KEY", "nothing") not in out.stdout + out.stderr
    *lines, seconds = out.stdout.splitlines()
    return lines, float(seconds)


def test_wandb_online_without_a_key_is_told_at_the_end(tmp_path):
    lines, _ = close_online(tmp_path, 15)
    assert len(lines) == 1
    assert "no API key" in lines[0]


def test_wandb_that_cannot_be_imported_is_told_at_the_end(tmp_path):
    (tmp_path / "wandb.py").write_text("raise ImportError('this W&B is broken')")
    lines, _ = close_online(tmp_path, 15, PYTHONPATH=str(tmp_path))
    assert lines == ["W&B failed: this W&B is broken; metrics.jsonl has every row"]


def test_wandb_that_hangs_holds_up_the_end_no_longer_than_its_bound(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes calls and never answers
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        lines, seconds = close_online(tmp_path, 2, WANDB_BASE_URL=url, WANDB_API_KEY="k" * 40)
    assert seconds < 3
    assert lines == ["W&B did not finish within 2 s; metrics.jsonl has every row"]


# --- Whole runs ---------------------------------------------------------------------------------


def test_wandb_holds_what_the_files_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = start(
        tmp_path / "run", "tracker=wandb_offline", "tracker.tags=[a,b]", "name=probe",
        "train.val_interval_steps=3", "reload.interval_steps=2",
    )  # fmt: skip
    [folder] = (tmp_path / "outputs" / "wandb").glob("offline-run-*")
    logged_rows = history(read_back(folder))
    rows = {h["step"]: h for h in logged_rows if "loss" in h}
    for row in run.rows:
        logged = {key: value for key, value in row.items() if value is not None}
        assert logged.items() <= rows[row["step"]].items()
    assert len(rows) == 6
    reloads = [h for h in logged_rows if "reload/reason" in h]
    assert [(h["step"], h["reload/reason"]) for h in reloads] == [(2, "interval"), (4, "interval")]
    assert all({"reload/before_gb", "reload/after_gb"} <= h.keys() for h in reloads)


def wandb_rows(outputs: Path) -> dict[int, float]:
    """Loss by step of the only W&B run there."""
    [folder] = (outputs / "wandb").glob("offline-run-*")
    return {row["step"]: row["loss"] for row in history(read_back(folder)) if "loss" in row}  # type: ignore[misc]


def test_a_resumed_run_is_one_wandb_run(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run(tmp_path / "outputs" / "run", Result(0))
    overrides = ("tracker=wandb_offline", *QUICK[1:], *STEPS, "reload=interval")
    process = started(repo, *overrides, f"hydra.run.dir={run.folder}", cwd=tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"step 12/"):
            process.kill()
            break
    process.wait()
    monkeypatch.chdir(repo)  # resumed from elsewhere: its W&B run stays where it was
    assert experiment.resume(run.folder).exit_code == 0
    assert wandb_rows(tmp_path / "outputs") == {row["step"]: row["loss"] for row in run.rows}
    [folder] = (tmp_path / "outputs" / "wandb").glob("offline-run-*")
    assert folder.name.endswith(run.events("run_started")[0]["run_id"])


@pytest.mark.parametrize("moment", ["starts", "writes"])
def test_a_wandb_service_that_dies_costs_nothing(repo: Path, tmp_path: Path, moment: str) -> None:
    """It dies while it starts, or once it has a file; training waits until then."""
    folder = tmp_path / "outputs" / "run"
    overrides = ("tracker=wandb_offline", *QUICK[1:], "reload=none", "train.steps=10")
    process = started(repo, *overrides, f"hydra.run.dir={folder}", cwd=tmp_path, everything=True)
    assert process.stdout is not None
    said = b""
    for line in process.stdout:
        if line.startswith(b"step ") and b"step " not in said:
            with suspended("lab.train.worker", below=process.pid):
                while not (service := running("wandb-core", below=process.pid)):
                    assert process.poll() is None
                while moment == "writes" and not [*tmp_path.glob("outputs/wandb/*/*.wandb")]:
                    assert service[0].is_running()
                service[0].kill()
        said += line
    assert process.wait() == 0
    assert b"W&B failed: " in said
    assert b"did not finish" not in said  # that it failed is known at once
    assert b"made again from the files" in said
    assert b"Traceback" not in said
    rows = Run(folder, Result(0)).rows
    assert wandb_rows(tmp_path / "outputs") == {row["step"]: row["loss"] for row in rows}


@contextmanager
def suspended(name: str, *, below: int) -> Iterator[None]:
    [process] = running(name, below=below)
    process.suspend()
    yield
    process.resume()


def test_lab_sync_makes_a_wandb_run_from_the_files(tmp_path: Path) -> None:
    def sync(folder: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lab.cli", "sync", "--offline", str(folder)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    run = start(tmp_path / "outputs" / "run", "reload.interval_steps=2")  # without W&B
    for _ in range(2):  # the second takes the place of the first
        done = sync(run.folder)
        assert done.returncode == 0, done.stderr
        assert "wandb sync outputs/wandb/offline-run-" in done.stdout
        assert wandb_rows(tmp_path / "outputs") == {row["step"]: row["loss"] for row in run.rows}
    with (run.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": null, "loss": 1.0}\n')
    done = sync(run.folder)
    assert done.returncode == 2
    assert f"metrics.jsonl, line {len(run.rows)}: is not a line that this lab wrote" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sync(tmp_path).returncode == 2
