"""``lab compare``: finding runs, comparing them, and reading damaged files."""

from __future__ import annotations

import html
import json
import os
import random
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lab.cli
from lab.catalog.find import find_runs
from lab.compare.command import compare_runs
from lab.compare.comparison import compare, overhead_peak_front, pareto_front
from lab.compare.figure import draw, legend_of
from lab.compare.losses import agreement
from lab.compare.page import render
from lab.compare.palette import palettes
from lab.compare.read import read_run
from lab.config.schema import ConfigError
from lab.records.files import RunFiles
from lab.sweep.index import Job
from tests.compared import (
    reload_event,
    with_test_loss,
    write_config,
    write_rows,
    write_run,
    write_sweep,
)
from tests.runs import start

HOSTILE = "</script><script>alert(1)</script><b>&\"'%{y}$\\frac$\x1b[31m"

DEEP = "[" * 100_000


def compared(*folders, title="t"):
    found = find_runs(folders)
    return compare(
        [read_run(location) for location in found.locations], title=title, notes=found.notes
    )


def page_of(comparison, folder):
    return render(comparison, folder=folder, made=datetime.now(UTC))


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Three real runs: without reloads, with one, and at another learning rate."""
    place = tmp_path_factory.mktemp("real")
    often = ("reload=interval", "reload.interval_steps=3", "reload.method=process")
    start(place / "0", "reload=none")
    start(place / "1", *often)
    start(place / "2", "reload=none", "optimizer.learning_rate=0.01")
    return place


# --- Real runs ----------------------------------------------------------------------------------


def test_real_runs_learn_the_same_whatever_was_reloaded(real):
    entries = compared(real).entries
    assert [entry.loss_match for entry in entries] == ["reference", "= 0", ""]
    assert [len(entry.run.reloads) for entry in entries] == [0, 1, 0]
    assert agreement(entry.loss_match for entry in entries) == "the same in every bit in 2 runs"


def test_real_runs_are_told_apart_by_their_settings(real):
    comparison = compared(real)
    assert comparison.keys == (
        "reload.policy", "reload.interval_steps", "reload.method", "optimizer.learning_rate",
    )  # fmt: skip
    assert comparison.entries[1].label == "1: policy=interval, interval_steps=3, method=process"
    assert comparison.entries[2].values[3] == "0.01"
    assert comparison.notes == ()


def test_the_command_leaves_a_page_a_picture_and_a_table(real, capsys):
    assert compare_runs([real]) == 0
    table = pl.read_parquet(real / "compare.parquet")
    summaries = [json.loads((real / str(n) / "summary.json").read_text()) for n in range(3)]
    for key in ("final_loss", "peak_process_gb", "overhead_fraction", "steps"):
        assert table[key].to_list() == [summary[key] for summary in summaries]
    assert table["reload.interval_steps"].to_list()[1] == 3
    assert table["reloads/interval"].to_list() == [0, 1, 0]
    assert (real / "compare.png").read_bytes().startswith(b"\x89PNG")
    told = capsys.readouterr().out
    assert "interval_steps" in told
    for name in ("compare.html", "compare.png", "compare.parquet"):
        assert str(real / name) in told
    assert not list(real.glob("*.tmp"))


def test_the_loss_of_test_data_has_a_column_where_a_run_has_one(tmp_path, capsys):
    sweep = write_sweep(tmp_path / "s", (0, 5))
    assert "test loss" not in page_of(compared(sweep), tmp_path)
    with_test_loss(sweep / "1", 1.2345)
    assert compare_runs([sweep]) == 0
    head, without, tested, *_ = capsys.readouterr().out.splitlines()
    column = head.index("test loss")
    assert (without[column:].split()[0], tested[column:].split()[0]) == ("-", "1.2345")
    assert pl.read_parquet(sweep / "compare.parquet")["test_loss"].to_list() == [None, 1.2345]
    assert "1.2345" in (sweep / "compare.html").read_text()
    assert compare_runs([sweep]) == 0  # its own table is known again


# --- Finding runs -------------------------------------------------------------------------------


def test_runs_are_found_in_a_sweep_a_run_and_folders_of_them(tmp_path):
    sweep = write_sweep(tmp_path / "sweeps" / "day" / "s", tuple(range(12)))
    run = write_run(tmp_path / "runs" / "day" / "r", {})
    (run / "checkpoints" / "step_1").mkdir(parents=True)
    write_run(run / "checkpoints" / "step_1", {})  # not a run of its own
    (run / ".hydra").mkdir()
    shutil.copy(run / "config.yaml", run / ".hydra")
    everything = [found.folder for found in find_runs([tmp_path]).locations]
    assert everything == [run, *(sweep / str(n) for n in range(12))]
    assert [found.folder for found in find_runs([run, sweep, run]).locations] == everything


def test_a_sweeps_runs_keep_the_numbers_of_their_jobs(tmp_path):
    sweep = write_sweep(tmp_path / "s", (0, 5, 10, 20))
    shutil.rmtree(sweep / "1")
    comparison = compared(sweep)
    assert [entry.label for entry in comparison.entries] == [
        "0: interval_steps=0", "2: interval_steps=10", "3: interval_steps=20",
    ]  # fmt: skip
    assert comparison.notes == ("1 of 4 jobs of the sweep have not begun",)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: None, "there is no such folder"),
        (lambda folder: folder.mkdir(), "holds no runs"),
        (lambda folder: (folder / "a" / "b").mkdir(parents=True), "holds no runs"),
        (lambda folder: folder.write_text("x"), "there is no such folder"),
    ],
)
def test_a_folder_without_runs_is_refused_in_one_line(tmp_path, monkeypatch, capsys, make, says):
    folder = tmp_path / "folder"
    make(folder)
    monkeypatch.setattr(sys, "argv", ["lab", "compare", str(folder)])
    assert lab.cli.main() == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"folder={folder}: {says}")
    assert told.err.count("\n") == 1
    assert told.out == ""


def run_cli(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "lab.cli", "compare", *map(str, arguments)],
        check=False, cwd=cwd, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


def test_several_folders_are_compared_in_outputs(tmp_path):
    write_sweep(tmp_path / "a", (0, 5))
    write_run(tmp_path / "b", {"train.steps": 20}, steps=20)
    done = run_cli("a", "b", "--csv", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    made = {path.name for path in (tmp_path / "outputs" / "compare").iterdir()}
    assert made == {"compare.html", "compare.png", "compare.csv"}
    table = pl.read_csv(tmp_path / "outputs" / "compare" / "compare.csv")
    assert table["folder"].to_list() == ["a/0", "a/1", "b"]
    assert table["train.steps"].to_list() == [40, 40, 20]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    runs = [write_run(tmp_path / name, {}) for name in ("a", "b")]
    monkeypatch.chdir(tmp_path)
    Path("outputs").write_text("")
    assert compare_runs(runs) == 1
    assert capsys.readouterr().err.startswith("cannot write to outputs/compare: ")


def lines_of(name):
    return b"\x89PNG\r\n\x1a\n somebody's" if name.endswith("png") else b"run,name,theirs\n1,2,3\n"


@pytest.mark.parametrize("name", ["compare.html", "compare.png", "compare.parquet", "compare.csv"])
def test_somebody_elses_file_is_refused_and_left(tmp_path, monkeypatch, capsys, name):
    run = write_run(tmp_path / "r", {})
    (run / name).write_bytes(lines_of(name))
    before = {path.name for path in run.iterdir()}
    csv = ["--csv"] if name.endswith("csv") else []
    monkeypatch.setattr(sys, "argv", ["lab", "compare", str(run), *csv])
    assert lab.cli.main() == 2
    assert capsys.readouterr() == (
        "",
        f"folder={run}: holds a {name} that this lab did not make; move it away\n",
    )
    assert (run / name).read_bytes() == lines_of(name)
    assert {path.name for path in run.iterdir()} == before


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_is_somebody_elses(tmp_path, make):
    run = write_run(tmp_path / "r", {})
    make(run / "compare.html")
    with pytest.raises(ConfigError, match="did not make"):
        compare_runs([run])


@pytest.mark.parametrize("as_csv", [False, True])
def test_an_earlier_comparison_is_replaced(tmp_path, as_csv):
    for count in (1, 2):
        write_run(tmp_path / "s" / str(count), {})
        (tmp_path / "s" / "compare.html.tmp").write_text("mine")
        assert compare_runs([tmp_path / "s"], as_csv=as_csv) == 0
    table = tmp_path / "s" / ("compare.csv" if as_csv else "compare.parquet")
    assert len(pl.read_csv(table) if as_csv else pl.read_parquet(table)) == 2
    assert (tmp_path / "s" / "compare.html.tmp").read_text() == "mine"


# --- Runs that differ in what they learn --------------------------------------------------------


def test_runs_of_different_models_data_and_length_are_noted_and_shown(tmp_path):
    write_run(tmp_path / "a", {})
    write_run(tmp_path / "b", {"model.name": "other", "train.steps": 20}, steps=20)
    write_run(tmp_path / "c", {"data.name": "jsonl", "data.path": "d.jsonl"})
    comparison = compared(tmp_path)
    assert comparison.notes == (
        "the runs differ in their model: tiny, other",
        "the runs differ in their data: stdlib_docs, d.jsonl",
        "the runs differ in length: train.steps=20, 40",
    )
    assert len(comparison.entries) == 3
    assert [entry.loss_match for entry in comparison.entries] == ["", "", ""]


def test_data_that_changed_under_its_name_is_noted(tmp_path):
    for name in ("a", "b"):
        run = write_run(tmp_path / name, {})
        summary = json.loads((run / "summary.json").read_text())
        summary["environment"] = {"data_fingerprint": name}
        (run / "summary.json").write_text(json.dumps(summary))
    assert compared(tmp_path).notes == (
        "the runs learned from different data: its fingerprints differ",
    )


@pytest.mark.parametrize("step", [1, 17, 40])
def test_the_first_step_whose_loss_differs_is_named(tmp_path, step):
    write_run(tmp_path / "a", {})
    other = write_run(tmp_path / "b", {"reload.interval_steps": 7})
    rows = [json.loads(line) for line in (other / "metrics.jsonl").read_text().splitlines()]
    rows[step - 1]["loss"] = float(np.nextafter(rows[step - 1]["loss"], 9))  # one bit
    (other / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    entries = compared(tmp_path).entries
    matches = [entry.loss_match for entry in entries]
    assert matches == ["reference", f"≠ 0 from step {step}"]
    assert agreement(matches) == "1 of 2 runs differ from one with the same settings"


def test_a_run_that_was_cut_off_is_compared_as_far_as_it_goes(tmp_path):
    write_config(tmp_path / "a", {"reload.interval_steps": 3})
    write_rows(tmp_path / "a", 12)
    write_run(tmp_path / "b", {})
    assert [entry.loss_match for entry in compared(tmp_path).entries] == [
        "= 1, 12 steps",
        "reference",
    ]


def test_what_a_swept_group_is_called_in_the_config_comes_first(tmp_path):
    sweep = write_sweep(tmp_path / "s")
    index = json.loads((sweep / "sweep.json").read_text()) | {"swept": ["reload"]}
    (sweep / "sweep.json").write_text(json.dumps(index))
    for number, policy in enumerate(("none", "interval", "leak")):
        write_config(sweep / str(number), {"reload.policy": policy, "seed": number})
    comparison = compared(sweep)
    assert comparison.keys == ("reload.policy", "seed")
    assert comparison.named_by == ("reload.policy",)


# --- Live, killed and damaged runs --------------------------------------------------------------


def test_a_live_run_is_read_as_far_as_it_is(tmp_path):
    write_config(tmp_path, {})
    files = RunFiles(tmp_path)
    [entry] = compared(tmp_path).entries
    assert entry.run.state == "running"
    assert entry.run.problems == ("has no rows yet",)
    files.close()
    write_rows(tmp_path, 30, every=10)
    (tmp_path / "summary.json").write_text('{"state": "interrupted", "steps": 3}')
    files = RunFiles(tmp_path)  # it was resumed: the summary is of the attempt before
    [entry] = compared(tmp_path).entries
    assert (entry.run.state, entry.run.figures.steps) == ("running", 30)
    assert page_of(compared(tmp_path), tmp_path)
    files.close()


def test_the_figures_of_a_killed_run_are_those_of_its_rows(tmp_path):
    whole = write_run(tmp_path / "whole", {}, every=7)
    killed = shutil.copytree(whole, tmp_path / "killed")
    (killed / "summary.json").unlink()
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "loss": 0.')
    killed, whole = compared(tmp_path).entries
    assert (killed.run.state, whole.run.state) == ("killed", "completed")
    assert killed.run.figures == whole.run.figures
    assert (killed.run.figures.overhead_fraction or 0) > 0
    assert killed.run.problems == ()
    assert killed.loss_match == "reference"


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("config.yaml", "a: [", "config.yaml cannot be read: "),
        ("config.yaml", "version: 99\nnew: 1\n", "is not taken: version=99: this lab reads"),
        ("config.yaml", None, "has no config.yaml; it is shown by its folder's name"),
        ("summary.json", "{", "summary.json cannot be read: its figures are taken from its rows"),
        ("summary.json", DEEP, "summary.json cannot be read: its figures are taken from its rows"),
        ("config.yaml", DEEP, "config.yaml cannot be read: "),
        ("sweep.json", DEEP, "is damaged; its jobs are shown all the same"),
        ("metrics.jsonl", f"{DEEP}\n", "metrics.jsonl is damaged: lines that cannot be read"),
        ("summary.json", "[1]", "summary.json cannot be read: its figures are taken from its rows"),
        ("metrics.jsonl", "", "has no rows"),
        ("metrics.jsonl", None, "has no rows"),
        ("sweep.json", "{", "is damaged; its jobs are shown all the same"),
        ("sweep.json", '{"version": 99}', "this lab reads version 1; its jobs are shown"),
    ],
)
def test_a_damaged_file_is_one_line_and_the_rest_is_shown(tmp_path, capsys, file, text, says):
    sweep = write_sweep(tmp_path / "s")
    path = sweep / file if file == "sweep.json" else sweep / "1" / file
    path.unlink() if text is None else path.write_text(text)
    comparison = compared(sweep)
    note = comparison.notes[0]
    assert says in note
    assert comparison.notes[1:] in ((), ("1: interval_steps=5: has no rows",))
    assert len(comparison.entries) == 3
    steps = [entry.run.figures.steps for entry in comparison.entries]
    assert steps == [40, 40, 40]
    assert (len(comparison.entries[1].run.columns) == 0) == (file == "metrics.jsonl")
    assert note in html.unescape(page_of(comparison, sweep))


def test_a_job_whose_config_cannot_be_read_is_named_by_what_was_asked_of_it(tmp_path):
    sweep = write_sweep(tmp_path / "s")
    (sweep / "1" / "config.yaml").write_text("version: 99")
    assert [e.values for e in compared(sweep).entries] == [("0",), ("5",), ("10",)]
    shutil.copytree(sweep / "1", tmp_path / "alone")
    (tmp_path / "alone" / "job.json").unlink()
    assert [e.label for e in compared(tmp_path / "alone").entries] == ["0: alone"]


def test_a_job_that_was_refused_has_a_row(tmp_path):
    sweep = write_sweep(tmp_path / "s", (0, 5))
    refused = tmp_path / "s" / "2"
    Job(number=2, overrides=("reload.interval_steps=9",), exit_code=2).write(refused)
    entry = compared(sweep).entries[2]
    assert (entry.run.state, entry.label, entry.loss_match) == (
        "refused",
        "2: interval_steps=9",
        "",
    )


def test_events_that_no_run_has_written_cost_the_reloads_only(tmp_path):
    run = write_run(tmp_path / "r", {}, every=7)
    (run / "summary.json").unlink()
    events = [reload_event(3) | {"seconds": {"save": "x"}}, {"event": "reload", "step": "x"}]
    events += [reload_event(8) | {"seconds": 5, "freed_gb": "much", "reason": ["a"]}]
    (run / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events) + '"reload"\n')
    [entry] = compared(run).entries
    assert [reload.step for reload in entry.run.reloads] == [3, 8]
    assert entry.run.figures.steps == 40
    assert page_of(compared(run), run)


def test_any_damage_of_a_runs_files_is_survived(tmp_path):
    whole, draws = write_run(tmp_path / "whole", {}, steps=12, every=4), random.Random(0)
    for number in range(30):
        folder = shutil.copytree(whole, tmp_path / "damaged")
        for path in folder.iterdir():
            content = bytearray(path.read_bytes())
            for _ in range(draws.choice([0, 1, 30])):
                content[draws.randrange(len(content))] = draws.randrange(256)
            path.write_bytes(content[: draws.randrange(len(content))] if number % 5 else content)
        comparison = compared(folder)
        assert number % 3 or page_of(comparison, tmp_path)
        shutil.rmtree(folder)


def test_runs_of_any_length_have_figures_a_page_and_a_picture(tmp_path):
    for steps in (0, 1, 2, 12):
        write_config(tmp_path / str(steps), {})
        write_rows(tmp_path / str(steps), steps)
        comparison = compared(tmp_path / str(steps))
        assert comparison.entries[0].run.figures.steps == steps
        assert page_of(comparison, tmp_path)
    draw(compared(tmp_path / "0"), tmp_path / "c.png")
    draw(compared(tmp_path), tmp_path / "c.png")


# --- Text that means harm -----------------------------------------------------------------------


def test_text_from_a_run_stays_text(tmp_path):
    write_run(tmp_path / "a", {"name": HOSTILE, "tracker.project": HOSTILE})
    other = write_run(tmp_path / "b", {"model.name": HOSTILE, "name": HOSTILE})
    events = [reload_event(3, HOSTILE), {"event": HOSTILE, "step": 3}]
    (other / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    summary = json.loads((other / "summary.json").read_text())
    summary |= {"state": HOSTILE, "reloads": {HOSTILE: 1}}
    (other / "summary.json").write_text(json.dumps(summary))
    comparison = compared(tmp_path, title=HOSTILE)
    page = page_of(comparison, tmp_path)
    assert page.count("<script") == page.count("</script>") == 3
    assert "alert(1)<" not in page
    assert "<b>&" not in page
    assert "\x1b" not in page
    draw(comparison, tmp_path / "c.png")


def test_a_terminal_is_not_told_what_to_do(tmp_path, capsys):
    write_run(tmp_path / "a", {"model.name": HOSTILE})
    write_run(tmp_path / "b", {"data.name": "jsonl", "data.path": "[bold]\u202ex\x07"})
    assert compare_runs([tmp_path]) == 0
    told = capsys.readouterr().out
    assert "[bold]" in told
    assert not {"\x1b", "\x07", "\u202e"} & set(told)


# --- Decisions ----------------------------------------------------------------------------------

POINTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12)


@given(points=POINTS)
def test_the_front_is_what_no_other_point_beats(points):
    def beaten(point):
        return any(o != point and o[0] <= point[0] and o[1] <= point[1] for o in points)

    assert pareto_front(points) == sorted({point for point in points if not beaten(point)})


def test_only_completed_runs_are_on_the_front(tmp_path):
    sweep = write_sweep(tmp_path / "s", (0, 5, 10))
    assert len(overhead_peak_front(compared(sweep).entries, "process")) == 3
    (sweep / "0" / "summary.json").unlink()
    assert len(overhead_peak_front(compared(sweep).entries, "process")) == 2


def test_runs_are_coloured_by_a_numeric_setting_in_its_order(tmp_path):
    comparison = compared(write_sweep(tmp_path / "s", (25, 5, 100, 5)))
    palette = palettes(comparison)[0]
    assert palette.by == "reload.interval_steps"
    assert [value for value, _ in palette.scale] == [5, 25, 100]
    by_value = dict(palette.scale)
    assert list(palette.colours) == [by_value[v] for v in (25, 5, 100, 5)]


def test_many_runs_have_a_short_legend(tmp_path):
    sweep = write_sweep(tmp_path / "s", (5, 10, 20) * 8, steps=12)
    comparison = compared(sweep)
    by_setting, by_run = palettes(comparison)
    assert legend_of(comparison, by_setting)[1] == [
        (f"{value:g} (8)", colour, "solid") for value, colour in by_setting.scale
    ]
    assert len(legend_of(comparison, by_run)[1]) == 12
    assert len(set(by_run.colours)) == 24


def test_comparing_is_not_paid_for_by_other_commands():
    heavy = ("polars", "plotly", "numpy", "matplotlib", "jinja2")
    code = f"import sys, lab.cli, lab.launch; print([m for m in {heavy} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "[]"
