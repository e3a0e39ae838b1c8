"""The figures of a run, with its files whole, damaged, or cut off."""

from __future__ import annotations

import json

import pytest

from lab.records.rows import read_rows
from lab.records.summary import figures_so_far, summarise
from tests.compared import reload_event, write_rows


@pytest.fixture
def run(tmp_path):
    """A run of 40 steps with reloads and without a summary."""
    write_rows(tmp_path, 40, every=7)
    return tmp_path


def test_the_figures_so_far_of_whole_files_are_those_of_the_summary(run):
    assert figures_so_far(run, read_rows(run)) == (summarise(run), "")


def test_half_a_last_row_changes_nothing(run):
    expected = summarise(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "loss": 0.')
    assert figures_so_far(run, read_rows(run)) == (expected, "")


def test_a_step_that_a_damaged_file_holds_twice_counts_once(run):
    path, expected = run / "metrics.jsonl", summarise(run)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:20], *lines[5:10], *lines[20:], *lines[:3]]))
    assert figures_so_far(run, read_rows(run)) == (expected, "")


@pytest.mark.parametrize("seconds", [{"save": "x"}, {"save": None}, 5, [1]])
def test_damaged_events_cost_only_what_they_tell(run, seconds):
    expected = summarise(run)
    event = reload_event(3) | {"seconds": seconds}
    (run / "events.jsonl").write_text(json.dumps(event) + "\n")
    figures, problem = figures_so_far(run, read_rows(run))
    assert problem == "events.jsonl is damaged: reloads and overhead are not counted"
    assert figures["reloads"] == {}
    for key in ("steps", "final_loss", "tokens_per_second", "peak_process_gb", "slope_mb_per_step"):
        assert figures[key] == expected[key]


def test_events_that_cannot_be_read_cost_only_what_they_tell(run):
    (run / "events.jsonl").unlink()
    (run / "events.jsonl").mkdir()
    figures, problem = figures_so_far(run, read_rows(run))
    assert figures["steps"] == 40
    assert problem.startswith("events.jsonl is damaged")


def test_rows_that_no_run_writes_give_no_figures(run):
    (run / "metrics.jsonl").write_text('{"step": 1, "memory/process_gb": "x"}\n')
    assert figures_so_far(run, read_rows(run)) == (
        {},
        "metrics.jsonl is damaged: it gives no figures",
    )


@pytest.mark.parametrize("step", ['"x"', "2.5", "true", "null", "[1]"])
def test_a_row_without_an_integer_step_is_no_row(run, step):
    expected = summarise(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(f'{{"step": {step}, "loss": 1.0}}\n')
    assert summarise(run) == expected


def test_no_reload_takes_longer_than_what_lies_between_its_rows(run):
    """Earlier labs counted the hours in which a run lay still."""
    event = reload_event(3)
    (run / "events.jsonl").write_text(json.dumps(event) + "\n")
    measured = summarise(run)["seconds"]["reload"]
    assert measured == pytest.approx(sum(event["seconds"].values()))
    times = {row["step"]: row["time"] for row in read_rows(run)}
    (run / "events.jsonl").write_text(json.dumps(event | {"seconds": {"drop": 36000.0}}) + "\n")
    figures = summarise(run)
    assert figures["seconds"]["reload"] == pytest.approx(times[4] - times[3])
    assert figures["overhead_fraction"] < 1
