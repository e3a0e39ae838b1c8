"""``reload=adaptive`` in real runs: remedies change nothing that is learned, and are replayed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab.config.schema import ConfigError
from lab.records.summary import summarise
from lab.reproduce.reproduce import reproduce
from lab.supervise import experiment
from lab.supervise.replay import Remedies
from lab.train import checkpoint
from tests.runs import QUICK, Run, assert_ended_as, config_of, jsonl, start

ADAPTIVE = ("reload=adaptive", "train.steps=8", "checkpoint.interval_steps=4")
TAKEN = {2: "clear_cache", 3: "collect", 5: "reload_in_process", 6: "reload_process"}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run without any remedy."""
    return start(tmp_path_factory.mktemp("straight") / "run", *ADAPTIVE, "name=same")


@pytest.fixture(scope="module")
def remedied_once(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run with every remedy."""
    folder = tmp_path_factory.mktemp("remedied") / "run"
    config, remedies = config_of(*QUICK, *ADAPTIVE, "name=same"), Remedies(8, TAKEN)  # type: ignore[arg-type]
    return Run(folder, experiment.run(config, folder, overrides=[], warnings=[], remedies=remedies))


@pytest.fixture
def remedied(remedied_once: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    shutil.copytree(remedied_once.folder, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return replace(remedied_once, folder=tmp_path / "run")


def steps_of(run: Run) -> dict[int, str]:
    """The remedies of a run, as its events have them."""
    taken = {e["step"]: e["remedy"] for e in run.events("remedy")}
    return taken | {e["step"]: f"reload_{e['method']}" for e in run.events("reload")}


def reproduced() -> Run:
    [folder] = Path("outputs").glob("runs/*/*")
    return Run(folder, None)  # type: ignore[arg-type]


def test_a_run_that_does_not_grow_is_not_touched(straight: Run) -> None:
    assert straight.result.exit_code == 0
    assert steps_of(straight) == {}
    assert straight.summary["reloads"] == straight.summary["remedies"] == {}


def test_remedies_change_nothing_that_is_learned(straight: Run, remedied_once: Run) -> None:
    assert steps_of(remedied_once) == TAKEN
    assert_ended_as(remedied_once, straight)


def test_a_remedy_is_an_event_with_what_it_freed_and_took(remedied_once: Run) -> None:
    cleared, collected = remedied_once.events("remedy")
    assert cleared["freed_gb"] == pytest.approx(
        cleared["before"]["memory/process_gb"] - cleared["after"]["memory/process_gb"]
    )
    assert cleared["after"]["memory/process_gb"] == remedied_once.rows[2]["memory/process_gb"]
    assert 0 < collected["seconds"] < 5
    summary = summarise(remedied_once.folder)
    assert summary["remedies"] == {"clear_cache": 1, "collect": 1}
    assert summary["reloads"] == {"adaptive": 2}
    assert summary["seconds"]["remedy"] == cleared["seconds"] + collected["seconds"]


def test_what_rungs_did_is_in_the_checkpoints(remedied_once: Run) -> None:
    ladder = remedied_once.state(8)["progress"]["ladder"]
    assert ladder["rungs"].keys() == set(TAKEN.values())
    assert ladder["trained"] > 0
    assert ladder["spent"] > 0


def test_a_reproduction_takes_the_same_remedies(remedied: Run) -> None:
    assert reproduce(remedied.folder) == 0
    assert steps_of(reproduced()) == TAKEN


def test_a_reproduction_of_no_remedies_takes_none(remedied: Run) -> None:
    events = [e for e in jsonl(remedied.folder / "events.jsonl") if e["event"] != "remedy"]
    write_events(remedied.folder, [e for e in events if e["event"] != "reload"])
    assert reproduce(remedied.folder) == 0
    assert steps_of(reproduced()) == {}


def test_hostile_events_are_left_out(remedied: Run) -> None:
    hostile: list[Any] = [
        {"event": "remedy", "step": 1, "remedy": "rm -rf"},
        {"event": "remedy", "step": "4", "remedy": "collect"},
        {"event": "remedy", "step": 10**30, "remedy": "collect"},
        {"event": "remedy", "step": True, "remedy": ["collect"]},
        {"event": "reload", "step": 4, "reason": "adaptive", "method": "\nquit"},
        {"event": "reload", "step": 4, "reason": "interval", "method": "process"},
        {"event": "remedy", "step": 7, "remedy": "collect"},
    ]
    write_events(remedied.folder, [*jsonl(remedied.folder / "events.jsonl"), *hostile])
    assert reproduce(remedied.folder) == 0
    assert steps_of(reproduced()) == {**TAKEN, 7: "collect"}


def test_a_resumed_reproduction_goes_on_with_them(remedied_once: Run, tmp_path: Path) -> None:
    config, folder = config_of(*QUICK, *ADAPTIVE, "name=same"), tmp_path / "run"
    remedies = Remedies(8, TAKEN)  # type: ignore[arg-type]
    experiment.run(config, folder, overrides=[], warnings=[], remedies=remedies)
    cut_off_after(folder, step=4)
    assert experiment.resume(folder).exit_code == 0
    again = Run(folder, remedied_once.result)
    assert steps_of(again) == TAKEN
    assert_ended_as(again, remedied_once)


def test_a_checkpoint_of_before_adaptive_goes_on(straight: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(straight.folder, folder)
    cut_off_after(folder, step=4)
    saved = folder / "checkpoints" / "step_4"
    state = json.loads((saved / "state.json").read_text())
    del state["progress"]["ladder"]
    (saved / "state.json").write_text(json.dumps(state, indent=1))
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["files"]["state.json"] = checkpoint._describe(saved / "state.json")
    (saved / "manifest.json").write_text(json.dumps(manifest))
    assert experiment.resume(folder).exit_code == 0
    again = Run(folder, straight.result)
    assert [e["step"] for e in again.events("resumed")] == [4]
    assert_ended_as(again, straight)


def test_mlx_lms_own_trainer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trainer=mlx_lm.*reload=none"):
        config_of("reload=adaptive", "trainer=mlx_lm")


def write_events(folder: Path, events: list[Any]) -> None:
    lines = "".join(json.dumps(event) + "\n" for event in events)
    (folder / "events.jsonl").write_text(lines)


def cut_off_after(folder: Path, *, step: int) -> None:
    """Leave what a kill after this step would have left."""
    (folder / "summary.json").unlink()
    rows = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(rows[:step]))
    write_events(folder, [e for e in jsonl(folder / "events.jsonl") if e["step"] <= step])
    for later in (folder / "checkpoints").iterdir():
        if int(later.name.removeprefix("step_")) > step:
            shutil.rmtree(later)
