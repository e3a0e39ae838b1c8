"""The page of a sweep: made at its end, and kept in W&B."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from wandb.util import get_core_path

from lab.commands import sync as sync_command
from lab.sweep.index import Job, SweepIndex
from lab.sweep.page import PageError, log_sweep
from lab.sweep.report import close_sweep
from tests.runs import start
from tests.tracking.wandb_server import ReceivedArtifact, WandbServer, wandb_server

ARTIFACT = "compare-seed-0-1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``outputs`` of a sweep of two runs."""
    outputs = tmp_path_factory.mktemp("page") / "outputs"
    sweep = outputs / "sweeps" / "day" / "seed=0,1"
    for number in (0, 1):
        job = sweep / str(number)
        assert start(job, f"seed={number}", "tracker=wandb_offline").result.exit_code == 0
        Job(number=number, overrides=(f"seed={number}",), exit_code=0).write(job)
    index = SweepIndex(
        version=1, overrides=(), resumable=True, swept=("seed",), jobs=((), ()), side_by_side=1,
        host="",
    )  # fmt: skip
    (sweep / "sweep.json").write_text(index.text())
    return outputs


@pytest.fixture
def sweep(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that is a test's own."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "outputs")
    return tmp_path / "outputs" / "sweeps" / "day" / "seed=0,1"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with wandb_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
        server.is_gone = True
        server.answers.set()
        wandb.teardown()


def sync(sweep: Path, *, offline: bool) -> int:
    """``lab sync``."""
    return sync_command.run(Namespace(folders=[sweep], offline=offline))


def only_version(server: WandbServer) -> ReceivedArtifact:
    [versions] = server.artifacts.values()
    [version] = versions.values()
    return version


def test_an_offline_sweep_ends_with_its_page_in_wandbs_files(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert close_sweep(sweep, 130) == 130
    assert "page     " not in capsys.readouterr().out  # it was told to end
    assert close_sweep(sweep, 0) == 0
    page = sweep / "compare.html"
    assert f"page     {page.relative_to(Path.cwd())}" in capsys.readouterr().out
    written = page.stat().st_mtime_ns
    assert sync(sweep, offline=True) == 0  # in its place
    assert page.stat().st_mtime_ns == written  # no run has changed since
    [file] = (sweep.parents[2] / "wandb" / "compare").rglob("*.wandb")
    inspect = [get_core_path(), "leet", "inspect", "--no-observability", "--json"]
    done = subprocess.run([*inspect, "--run-file", str(file)], capture_output=True, check=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    [run] = [record["run"] for record in records if record["type"] == "run"]
    assert (run["job_type"], run["run_group"]) == ("compare", "seed=0,1")
    [artifact] = [record["artifact"] for record in records if record["type"] == "artifact"]
    assert (artifact["name"], artifact["type"]) == (ARTIFACT, "comparison")
    kept = [Path(entry["local_path"]) for entry in artifact["manifest"]["contents"]]
    assert [path.name for path in kept] == ["compare.html", "compare.png"]
    assert kept[0].read_bytes() == page.read_bytes()
    assert kept[0].is_relative_to(file.parent)


def test_lab_sync_sends_the_page_once(
    server: WandbServer, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sync(sweep, offline=True) == 0
    command = capsys.readouterr().out.splitlines()[-1]
    [offline] = [word for word in command.split() if "wandb/compare/" in word]
    wandb_sync = [sys.executable, "-m", "wandb", "sync", offline]
    subprocess.run(wandb_sync, env=os.environ | server.environment, check=True, capture_output=True)
    artifact = only_version(server)
    for name in ("compare.html", "compare.png"):
        assert artifact.saved[name] == (sweep / name).read_bytes()
    for _ in range(2):
        assert sync(sweep, offline=False) == 0
        assert only_version(server) == artifact
        assert f"page {server.url}/" in capsys.readouterr().out
    assert artifact.is_committed
    assert artifact.run_id in server.runs
    assert len(server.runs) == 3
    assert len(server.views) == 1
    server.answers.clear()
    with pytest.raises(PageError, match=r"^no answer within 0\.2 s$"):
        log_sweep(sweep, "online", seconds=0.2)


def test_a_page_that_cannot_be_made_costs_a_line(
    server: WandbServer, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in ("compare.html", "compare.png"):
        (sweep / file).write_text("mine")
    (sweep / "0" / "summary.json").touch()
    assert sync(sweep, offline=False) == 0
    told = capsys.readouterr().err.splitlines()[-1]
    assert "is not in W&B: " in told
    assert "compare.html" in told
    assert server.artifacts == {}
    assert (sweep / "compare.html").read_text() == "mine"
