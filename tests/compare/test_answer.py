"""What a comparison answers: which memory, which setting, which runs repeat each other."""

from __future__ import annotations

import base64
import gzip
import json
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plotly.graph_objects import Figure

from lab.catalog.find import find_runs
from lab.compare.advice import advice
from lab.compare.command import compare_runs
from lab.compare.comparison import compare
from lab.compare.layout import layout
from lab.compare.page import packed, render
from lab.compare.read import read_run
from lab.compare.scales import near_limits
from lab.compare.trace import Pool
from lab.compare.traces import MOST_LINES, drawn_lines, traces_of
from tests.compared import reload_event, write_run, write_sweep

THRESHOLD = {"reload.policy": "threshold", "reload.metric": "mlx"}


def compared(folder):
    return compare([read_run(location) for location in find_runs([folder]).locations], title="t")


def threshold_runs(place, *, budget=100.0, limit=100.0):
    """Two runs that watch MLX's memory: one reloads above 0.9 GB, one never does."""
    bounds = {"memory.budget_gb": budget, "objective.memory_limit_gb": limit}
    for name, gb, every in (("a", 0.9, 10), ("b", 2.0, 0)):
        changed = {**THRESHOLD, **bounds, "reload.memory_threshold_gb": gb}
        write_run(place / name, changed, every=every)
    return place


# --- Which memory -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policies", "figure"),
    [
        ((("threshold", "mlx"), ("threshold", "mlx")), "mlx"),
        ((("threshold", "mlx"), ("none", "process")), "mlx"),
        ((("interval", "active"), ("leak", "active")), "active"),
        ((("threshold", "mlx"), ("interval", "process")), "process"),
        ((("none", "mlx"), ("none", "mlx")), "process"),
    ],
)
def test_the_memory_that_the_policies_watch_is_shown_first(tmp_path, policies, figure):
    for i, (policy, metric) in enumerate(policies):
        write_run(tmp_path / str(i), {"reload.policy": policy, "reload.metric": metric}, steps=5)
    assert compared(tmp_path).figure == figure


def test_page_terminal_and_points_say_one_peak_by_one_word(tmp_path, capsys):
    threshold_runs(tmp_path)
    assert compare_runs([tmp_path]) == 0
    told = capsys.readouterr().out
    entry = compared(tmp_path).entries[1]
    known = entry.overhead_and_peak("mlx")
    assert known is not None
    peak = known[1]
    assert peak == pytest.approx(max((1 + i / 50) * 0.7 for i in range(40)))
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")
    for text in (told, page):
        assert "peak GB, MLX" in text
        assert f"{peak:.3f}" in text


def test_thresholds_and_reloads_are_drawn_where_the_policy_sees_them(tmp_path):
    threshold_runs(tmp_path, budget=2.0)
    event = reload_event(10) | {"before": {"memory/active_gb": 0.7, "memory/cache_gb": 0.25}}
    (tmp_path / "a" / "events.jsonl").write_text(json.dumps(event) + "\n")
    comparison = compared(tmp_path)
    near, far = near_limits(comparison, "mlx")
    assert ([limit.gb for limit in near], [limit.gb for limit in far]) == ([0.9], [2.0, 100.0])
    assert [str(limit) for limit in near_limits(comparison, "process")[0]] == ["budget 2 GB"]
    reloads = traces_of(comparison)[1]
    assert reloads.parts["mlx"].y == pytest.approx([0.95])
    assert reloads.parts["process"].y == pytest.approx([1.18])  # not said: that of the row


# --- Which setting ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        (100.0, "No reload is needed: the run without any stays within the budget of 100 GB"),
        (1.0, "memory_threshold_gb=0.9 stays within the limit of 1 GB with the least overhead"),
        (0.5, "No run stays within the limit of 0.5 GB. The closest is memory_threshold_gb=0.9"),
    ],
)
def test_the_answer_follows_the_limit(tmp_path, limit, says):
    assert advice(compared(threshold_runs(tmp_path, limit=limit))).startswith(says)


@pytest.mark.parametrize(("every", "is_lower"), [(10, True), (39, False)])
def test_memory_is_called_lower_where_it_plainly_is(tmp_path, every, is_lower):
    """The longest run of 39 steps leaves a peak 1 % below that of 40."""
    for name, interval in (("a", 0), ("b", every)):
        changed = {"reload.policy": "interval", "reload.interval_steps": interval}
        write_run(tmp_path / name, changed | {"memory.budget_gb": 100.0}, every=interval)
    said = advice(compared(tmp_path))
    assert said.startswith("No reload is needed")
    assert ("Memory is lowest with" in said) == is_lower


def test_there_is_no_answer_where_runs_cannot_be_compared(tmp_path):
    threshold_runs(tmp_path)
    write_run(tmp_path / "c", {"train.steps": 20}, steps=20)
    assert advice(compared(tmp_path)) == (
        "Which to choose cannot be told: the runs differ in length: train.steps=20, 40."
    )


def test_a_run_that_did_not_complete_is_no_answer(tmp_path):
    threshold_runs(tmp_path)
    for name in "ab":
        (tmp_path / name / "summary.json").unlink()
    assert "no run is complete" in advice(compared(tmp_path))


# --- Which runs repeat each other ---------------------------------------------------------------


def seeds(place):
    for every in (0, 10):
        for seed, shift in ((1, 0.0), (2, 1.0), (3, 5.0)):
            changed = {"seed": seed, "reload.interval_steps": every}
            write_run(place / f"{every}_{seed}", changed, every=every, shift=shift)
    return place


def test_runs_that_differ_in_their_seed_only_are_one_line(tmp_path):
    lines = compared(seeds(tmp_path)).lines
    assert [line.name for line in lines] == [
        "interval_steps=0, 3 seeds",
        "interval_steps=10, 3 seeds",
    ]
    band = lines[0].band(lambda columns: columns["loss"])
    plain = 5 / np.arange(1, 41)
    assert band.low == pytest.approx(plain)
    assert band.mean == pytest.approx(plain + 2)
    assert band.high == pytest.approx(plain + 5)


def test_a_group_of_seeds_is_a_row_with_a_row_for_each_below(tmp_path):
    comparison = compared(seeds(tmp_path))
    page = render(comparison, folder=tmp_path, made=datetime.now(UTC))
    assert page.count('class="group"') == 2
    assert page.count('class="member" hidden') == 6


def test_without_other_seeds_equal_runs_stay_apart_and_are_told_by_folder(tmp_path, capsys):
    for name in ("first", "second"):
        write_run(tmp_path / name, {}, steps=5)
    assert len(compared(tmp_path).lines) == 2
    assert compare_runs([tmp_path]) == 0
    told = capsys.readouterr().out
    assert "began" in told
    assert "first " in told
    assert "second " in told


# --- What the page is made of -------------------------------------------------------------------


def test_plotly_knows_every_key_of_the_charts(tmp_path):
    comparison = compared(seeds(tmp_path))
    Figure([trace.style for trace in traces_of(comparison)], layout(comparison))


@given(arrays=st.lists(st.lists(st.floats(-1e30, 1e30), max_size=5), max_size=6))
def test_arrays_are_packed_once_each_and_found_again(arrays):
    pool = Pool()
    places = [pool.place(np.array(values, float)) for values in arrays]
    content = gzip.decompress(base64.b64decode(packed({"arrays": pool.arrays()})))
    start = 4 + int.from_bytes(content[:4], "little")
    lengths = json.loads(content[4:start])["lengths"]
    assert len(lengths) == len(set(places))
    found = np.split(np.frombuffer(content[start:], "<f4"), np.cumsum(lengths))
    for place, values in zip(places, arrays, strict=True):
        assert found[place].tolist() == np.array(values, "<f4").tolist()


def test_of_very_many_runs_the_front_is_drawn(tmp_path, monkeypatch):
    sweep = write_sweep(tmp_path / "s", tuple(range(1, MOST_LINES // 10)), steps=3)
    monkeypatch.setattr("lab.compare.traces.MOST_LINES", 5)
    comparison = compared(sweep)
    assert len(drawn_lines(comparison)) == 5
    assert len(traces_of(comparison)[-2].parts["process"].y) == len(comparison.lines) - 5


@pytest.mark.parametrize(("display", "opened"), [("", 0), (":0", 1)])
def test_open_shows_the_page_where_there_is_a_display(
    tmp_path, monkeypatch, capsys, display, opened
):
    run, pages = write_run(tmp_path / "r", {}, steps=5), []
    for name in ("WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("webbrowser.open", lambda page: pages.append(page) or True)
    assert compare_runs([run], opens=True) == 0
    assert pages == [(run / "compare.html").as_uri()] * opened
    assert ("no browser or display" in capsys.readouterr().out) == (not opened)
