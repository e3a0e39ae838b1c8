"""Runs that W&B's server gets while they train, or fails to get: a stand-in on this machine."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest
import wandb

from lab.commands import sync as sync_command
from lab.records.files import RunFiles
from lab.records.origin import Origin
from lab.tracking.view import Shown, save_view, view_line
from lab.tracking.wandb import WandbTracker
from tests.runs import Run, start
from tests.tracked import SUMMARY, make_config, make_reload, make_row
from tests.tracking.wandb_server import API_KEY, ENTITY, ReceivedRun, WandbServer, wandb_server

ONLINE = ("tracker=wandb_online", "reload.interval_steps=2", "name=a")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with wandb_server() as server:
        monkeypatch.chdir(tmp_path)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
        server.is_gone = True  # it has what it needs; W&B's process must not wait for more
        server.answers.set()
        wandb.teardown()  # the next one reads its settings again


def as_logged(run: Run) -> list[dict[str, object]]:
    """The rows of ``metrics.jsonl`` as W&B has them: without what is null."""
    return [{k: v for k, v in row.items() if v is not None} for row in run.rows]


def steps_of(received: ReceivedRun) -> list[dict[str, object]]:
    return [row for row in received.rows if "loss" in row]


def test_the_server_gets_each_row_of_a_run_once(server: WandbServer, tmp_path: Path) -> None:
    run = start(tmp_path / "outputs" / "run", *ONLINE)
    assert run.result.exit_code == 0
    assert steps_of(server.run) == as_logged(run)
    reloads = [row["step"] for row in server.run.rows if "reload/reason" in row]
    assert reloads == [event["step"] for event in run.events("reload")] == [2, 4]
    assert server.run.exit_code == 0
    assert server.run.summary["state"] == "completed"
    assert "slope" not in "".join(server.run.summary)  # null all along: neither 0 nor NaN
    assert API_KEY not in str(server.run)
    assert server.run.saved["lab/config.yaml"] == (run.folder / "config.yaml").read_bytes()
    assert server.run.saved["lab/memory.png"] == (run.folder / "memory.png").read_bytes()
    assert server.run.config["run_dir"] == "outputs/run"
    assert server.run.config["lab_version"] == run.summary["environment"]["lab"]
    assert server.run.config["commit"] == run.summary["environment"]["git_commit"]


def test_a_run_has_one_view_that_its_last_lines_name(
    server: WandbServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        run = start(tmp_path / "outputs" / "run", *ONLINE)
    [view] = server.views.values()
    [run_id] = server.runs
    assert view["displayName"] == f"a {run_id}"
    [runs] = json.loads(view["spec"])["section"]["runSets"]
    [only] = runs["filters"]["filters"]
    assert (only["key"], only["value"]) == ({"section": "run", "name": "name"}, run_id)
    assert f"  view     {server.url}/{ENTITY}/mlx-memory-lab?nw=" in caplog.text
    assert sync(run.folder) == 0
    assert [other["name"] for other in server.views.values()] == [view["name"]]


def after(condition: Callable[[], bool], act: Callable[[], object]) -> None:
    """Do something once a condition holds, beside the test."""

    def watch() -> None:
        pause = Event()
        while not condition():
            pause.wait(0.02)
        act()

    Thread(target=watch, daemon=True).start()


@pytest.mark.slow
def test_training_does_not_wait_for_a_slow_server(server: WandbServer, tmp_path: Path) -> None:
    """It answers nothing until the last row is on file."""
    rows = tmp_path / "outputs" / "run" / "metrics.jsonl"
    server.answers.clear()
    after(lambda: rows.exists() and b'"step": 6,' in rows.read_bytes(), server.answers.set)
    run = start(rows.parent, *ONLINE)
    assert run.result.exit_code == 0
    assert steps_of(server.run) == as_logged(run)


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_server_that_refuses_is_told_and_stops_nothing(
    server: WandbServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    server.refuses = status
    tracker, rows = tracker_of(tmp_path), [make_row(step) for step in range(1, 4)]
    for row in rows:
        tracker.log(row)
    [line] = tracker.close(SUMMARY, 0)
    assert line.startswith("W&B failed: ")
    assert line.endswith("; metrics.jsonl has every row")
    assert API_KEY not in line


def test_a_network_that_is_lost_costs_the_run_nothing_and_lab_sync_sends_it(
    server: WandbServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    after(server.has_run.is_set, lambda: setattr(server, "is_gone", True))
    with caplog.at_level("WARNING"):
        run = start(tmp_path / "outputs" / "run", *ONLINE)
    assert run.result.exit_code == 0
    assert run.summary["state"] == "completed"
    assert "W&B failed: not all data could be sent; metrics.jsonl has every row" in caplog.text
    assert "to send it to W&B later: " in caplog.text
    assert server.run.rows == []
    server.is_gone = False
    for _ in range(2):  # the second changes nothing
        assert sync(run.folder) == 0
        assert steps_of(server.run) == as_logged(run)
        assert server.run.exit_code == 0


def test_a_resumed_run_sends_what_the_server_lacks(server: WandbServer, tmp_path: Path) -> None:
    files, sent = RunFiles(tmp_path), []
    for steps in (range(1, 4), range(4, 7)):
        tracker = tracker_of(tmp_path)
        for step in steps:
            files.row(make_row(step))
            tracker.log(make_row(step))
        if steps.start == 1:
            files.event(make_reload(3))  # told of after the next row, which never came
        assert tracker.close(SUMMARY, 0) == []
        sent.append([row["step"] for row in server.run.rows if "loss" in row])
    assert sent == [[1, 2, 3], [1, 2, 3, 4, 5, 6]]


def test_the_name_of_this_machine_can_be_kept_back(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "my-own-machine")
    config = make_config("online")
    quiet = replace(config, tracker=replace(config.tracker, log_host=False))
    for given, run_id in ((config, "told"), (quiet, "kept")):
        origin = Origin(run_id, None, "")
        tracker = WandbTracker(given, outputs=tmp_path, run_dir=tmp_path, origin=origin)
        assert tracker.close(SUMMARY, 0) == []
    assert server.runs["told"].config["host"] == "my-own-machine"
    assert "my-own-machine" not in str(server.runs["kept"])


def test_a_view_that_is_saved_again_takes_the_place_of_the_first(server: WandbServer) -> None:
    urls = {
        save_view(make_config("online"), Shown.sweep(group, ["reload.interval_steps"]))
        for group in ("one", "two", "two")
    }
    assert sorted(view["displayName"] for view in server.views.values()) == ["one", "two"]
    assert all(url.startswith(f"{server.url}/{ENTITY}/p?nw=") for url in urls)
    assert len(urls) == 2


def test_a_view_that_the_server_never_answers_costs_its_bound(
    server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.tracking.view.SAVE_SECONDS", 0.2)
    server.answers.clear()
    said = view_line(make_config("online"), Shown.sweep("one", []))
    assert said == "not saved in W&B: no answer within 0.2 s"


def tracker_of(run_dir: Path) -> WandbTracker:
    origin = Origin("abc", None, "")
    return WandbTracker(make_config("online"), outputs=run_dir, run_dir=run_dir, origin=origin)


def sync(folder: Path) -> int:
    """``lab sync``."""
    return sync_command.run(Namespace(folders=[folder], offline=False))
