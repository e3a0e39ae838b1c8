"""What a real sweep's explanations look like wherever they are shown."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lab.cli import main as lab
from lab.explain.report import growth_note
from lab.plots.memory_plot import plot_run
from tests.runs import QUICK, started
from tests.tracking.test_wandb import inspect


@pytest.fixture(scope="module")
def sweep(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that grows and one that does not, by name of its folder: 0 and 1."""
    folder = tmp_path_factory.mktemp("shown") / "sweep"
    overrides = ("-m", *QUICK[1:], "train.steps=20", "reload=none", "fault=trainer_list,none")
    process = started(
        repo, *overrides, "tracker=wandb_offline", f"hydra.sweep.dir={folder}", cwd=folder.parent
    )
    process.communicate()
    assert process.returncode == 0
    return folder


def explained(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "explain.json").read_text())


def said_by(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: object
) -> str:
    monkeypatch.setattr(sys, "argv", ["lab", *map(str, arguments)])
    assert lab() == 0
    return capsys.readouterr().out


def test_lab_explain_has_one_line_for_each_run_of_a_sweep(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    first, second = said_by(monkeypatch, capsys, "explain", sweep).splitlines()
    assert first.startswith("0  memory grows by ")
    assert "Session.faults[0].history[" in first
    assert second.startswith("1  Too short to tell")


def test_the_comparison_has_kind_holder_and_remedy(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    said = said_by(monkeypatch, capsys, "compare", sweep)
    assert "what grows" in said
    found = explained(sweep / "0")
    table = pl.read_parquet(sweep / "compare.parquet").sort("run")
    for name in ("kind", "holder", "remedy"):
        grown, steady = table[f"explain/{name}"]
        assert found[name] in grown
        assert not steady
    assert "memory fell in 1 of the runs when a census emptied MLX's cache" in said
    page = (sweep / "compare.html").read_text()
    assert found["holder"].rpartition("[")[0] in page


def test_the_picture_says_it(sweep: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(sweep / "0", tmp_path / "run"))
    drawn = (run / "memory.png").read_bytes()
    assert "Session.faults[0].history[" in growth_note(run)
    assert plot_run(run, growth_note(run)).read_bytes() == drawn
    assert plot_run(run).read_bytes() != drawn
    assert growth_note(sweep / "1") == ""


def test_a_census_is_an_event_that_the_picture_marks(sweep: Path, tmp_path: Path) -> None:
    """It empties the cache, in a run without reloads too: the curve must not fall untold."""
    run = Path(shutil.copytree(sweep / "0", tmp_path / "run"))
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    census = next(event for event in events if event["event"] == "census")
    found = explained(run)
    assert (census["step"], list(census["freed_gb"])) == (found["step"], ["clear_cache", "collect"])
    marked = plot_run(run).read_bytes()
    (run / "events.jsonl").write_text(
        "".join(json.dumps(event) + "\n" for event in events if event is not census)
    )
    assert plot_run(run).read_bytes() != marked


def test_wandbs_summary_has_it(sweep: Path) -> None:
    runs = (sweep.parent / "outputs" / "wandb").glob("offline-run-*")
    summaries = [json.loads(inspect(run, "--summary"))["summary"] for run in runs]
    grown, steady = sorted(summaries, key=lambda summary: "explain/kind" not in summary)
    found = explained(sweep / "0")
    for name in ("kind", "holder", "remedy", "advice", "mb_per_step"):
        assert grown[f"explain/{name}"] == found[name]
    assert not any(key.startswith("explain/") for key in steady)
