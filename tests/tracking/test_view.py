"""The saved W&B views of a sweep and of a run, as W&B's server would get it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.config.keys import dump
from lab.records.files import RunFiles
from lab.records.origin import Origin
from lab.records.rows import METRIC_KEYS
from lab.sweep.index import Job, SweepIndex
from lab.sweep.report import view_of
from lab.tracking.view import SECTIONS, Shown, make_view, run_view, swept_settings
from tests.tracked import SUMMARY, base_config

GROUP = "18-43_reload.interval_steps=0,10,fault='a<b'"


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    view = make_view("me", "p", Shown.sweep(GROUP, ["reload.interval_steps", "seed"]))
    return view._to_model().spec.section.model_dump(by_alias=True)


def test_it_shows_the_runs_of_the_sweep_by_what_was_swept(spec: dict) -> None:
    [runs] = spec["runSets"]
    filters = [(f["key"]["name"], f["op"], f["value"]) for f in runs["filters"]["filters"]]
    assert filters == [("group", "=", GROUP), ("jobType", "!=", "compare")]
    grouping = [(key["section"], key["name"]) for key in runs["grouping"]]
    assert grouping == [("config", "reload.value.interval_steps"), ("config", "seed.value")]
    assert "config:reload.value.interval_steps" in runs["runFeed"]["columnPinned"]


def test_every_chart_has_a_key_that_runs_log_against_the_step(spec: dict) -> None:
    sections = spec["panelBankConfig"]["sections"]
    assert [s["name"] for s in sections] == list(SECTIONS)
    charts = [panel["config"] for section in sections for panel in section["panels"]]
    assert {chart["xAxis"] for chart in charts} == {"step"}
    logged = {*METRIC_KEYS, "val_loss", "reload/before_gb", "reload/after_gb"}
    assert {key for chart in charts for key in chart["metrics"]} <= logged


def test_a_swept_group_is_told_by_its_choice() -> None:
    swept = ["reload", "model", "adapter", "tracker", "trainer", "train.steps"]
    assert swept_settings(swept) == [
        "reload.policy", "model.name", "adapter.kind", "tracker.mode", "trainer", "train.steps"
    ]  # fmt: skip
    assert swept_settings(["fault", "experiment", "+nothing"]) == []


def test_its_columns_are_in_the_summary(spec: dict) -> None:
    [runs] = spec["runSets"]
    columns = {c.partition(":")[2] for c in runs["runFeed"]["columnPinned"] if "summary" in c}
    assert columns <= SUMMARY.keys()


def test_a_job_of_a_sweep_has_no_view_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, path = base_config(), tmp_path / "config.yaml"
    path.write_text(dump(config))
    assert Shown.run(config, tmp_path) is not None
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_SWEEP_ID", "swp1")
        assert Shown.run(config, tmp_path) is None
    RunFiles(tmp_path).event({"event": "run_started", **Origin.new(path, "a sweep").event()})
    assert run_view(config, tmp_path) == ""


def test_a_view_that_cannot_be_saved_costs_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "no address")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    index = SweepIndex(
        version=1, overrides=(), resumable=True, swept=(), jobs=(), side_by_side=1, host=""
    )
    (tmp_path / "sweep.json").write_text(index.text())
    assert view_of(tmp_path) == "not saved in W&B: the sweep has no run"
    Job(number=0, overrides=()).write(tmp_path / "0")
    (tmp_path / "0" / "config.yaml").write_text(dump(base_config()))
    said = view_of(tmp_path)
    assert said.startswith("not saved in W&B: ")
    assert "\n" not in said
