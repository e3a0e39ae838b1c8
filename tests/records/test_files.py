"""The files of a run: whole lines, every step once, whatever was cut."""

from __future__ import annotations

import json
import math
import os
import resource

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.config.schema import ConfigError
from lab.records.files import MetricsLost, RunFiles, write_json
from lab.records.rows import METRIC_KEYS, metric_gb, read_jsonl
from tests.tracked import make_row


def test_rows_have_the_contracts_keys_in_its_order(tmp_path):
    files = RunFiles(tmp_path)
    files.row({"val_loss": 2.0, "loss": 1.0, "step": 1})
    (row,) = read_jsonl(tmp_path / "metrics.jsonl")
    assert tuple(row) == (*METRIC_KEYS, "val_loss")


@given(st.lists(st.floats(), min_size=1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_losses_come_back_to_the_last_bit_and_nonfinite_ones_as_null(tmp_path_factory, losses):
    folder = tmp_path_factory.mktemp("run")
    files = RunFiles(folder)
    for step, loss in enumerate(losses, 1):
        assert files.row(make_row(step, loss=loss)).is_new
    files.close()
    expected = [loss if math.isfinite(loss) else None for loss in losses]
    assert [row["loss"] for row in read_jsonl(folder / "metrics.jsonl")] == expected
    again = RunFiles(folder)
    assert [again.row(make_row(s + 1)).loss for s in range(len(losses))] == expected
    again.close()


@given(rows=st.integers(0, 40), cut=st.integers(0, 2000), again=st.integers(1, 5))
def test_a_cut_file_goes_on_with_no_gap_and_no_step_twice(tmp_path_factory, rows, cut, again):
    folder = tmp_path_factory.mktemp("run")
    files = RunFiles(folder)
    for step in range(1, rows + 1):
        files.row(make_row(step))
    files.close()
    path = folder / "metrics.jsonl"
    os.truncate(path, max(0, path.stat().st_size - cut))
    whole = path.read_bytes().count(b"\n")

    files = RunFiles(folder)
    assert files.last_step == whole
    for step in range(max(1, whole - 2), whole + again + 1):
        stored = files.row(make_row(step, loss=10 / step))
        assert bool(stored) == (step > whole)
        assert stored.loss == 10 / step
    files.close()
    steps = [json.loads(line)["step"] for line in path.read_bytes().splitlines()]
    assert steps == list(range(1, whole + again + 1))


def test_a_missing_step_is_refused(tmp_path):
    files = RunFiles(tmp_path)
    files.row(make_row(1))
    with pytest.raises(ValueError, match="step 3 after that of step 1"):
        files.row(make_row(3))


def test_a_last_line_of_garbage_is_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 2.5}\n' + b"\0" * 9000 + b"\n")
    assert RunFiles(tmp_path).last_step == 1
    assert path.read_bytes() == b'{"step": 1, "loss": 2.5}\n'


WHOLE = {
    "metrics.jsonl": b'{"step": 1, "loss": 2.5, "time": 1.0}\n',
    "events.jsonl": b'{"event": "run_started", "step": 0, "time": 0.0}\n',
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(
    ("line", "text"),
    [
        (1, b"name,value\n"),
        (1, b"a text of somebody else's without an end of line"),
        (1, b'{"a": 1}\n'),
        (1, b"[1]\n{own}"),
        (2, b'{own}{"event": "rel\n'),
        (2, b'{own}{"step": 2, "lo\n{own}'),
        (2, b"{own}somebody's"),
        (2, b"{own}\n"),
        (2, b'{own}{"event": 3, "step": 3, "time": 1}\n'),
        (2, b"{own}" + b"\0" * 90 + b"\n{own}"),
    ],
)
def test_a_line_that_is_not_the_labs_is_named_and_stays(tmp_path, name, line, text):
    path = tmp_path / name
    (other,) = (tmp_path / file for file in WHOLE if file != name)
    before = text.replace(b"{own}", WHOLE[name])
    path.write_bytes(before)
    cut = WHOLE[other.name] + WHOLE[other.name][:9]
    other.write_bytes(cut)
    with pytest.raises(ConfigError, match=rf"{name}, line {line}: is not a line that this lab"):
        RunFiles(tmp_path)
    assert (path.read_bytes(), other.read_bytes()) == (before, cut)
    path.write_bytes(WHOLE[name])
    RunFiles(tmp_path).close()  # the refusal has left no lock


@pytest.mark.parametrize("name", WHOLE)
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_a_kill_or_a_power_cut_leaves_of_a_line_is_cut(tmp_path_factory, name, data):
    whole = WHOLE[name]
    part = data.draw(st.integers(0, len(whole) - 1))
    zeros = data.draw(st.integers(0, 5000))
    path = tmp_path_factory.mktemp("run") / name
    path.write_bytes(whole + whole[:part] + bytes(zeros))
    RunFiles(path.parent).close()
    assert path.read_bytes() == whole


def test_events_are_rows_with_nonfinite_values_null_at_any_depth(tmp_path):
    RunFiles(tmp_path).event({"event": "reload", "before": {"a": math.inf, "b": [math.nan, 1]}})
    (event,) = read_jsonl(tmp_path / "events.jsonl")
    assert event == {"event": "reload", "before": {"a": None, "b": [None, 1]}}


def test_a_disk_that_is_full_leaves_whole_lines_and_names_the_file(tmp_path):
    files = RunFiles(tmp_path)
    files.row(make_row(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "metrics.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
    try:
        with pytest.raises(MetricsLost, match=r"metrics\.jsonl: ") as caught:
            files.row(make_row(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.path == tmp_path / "metrics.jsonl"
    assert files.last_step == 1
    assert files.row(make_row(2))  # there is room again
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_folder_that_cannot_be_written_names_the_file(tmp_path):
    with pytest.raises(MetricsLost, match=r"metrics\.jsonl"):
        RunFiles(tmp_path / "missing")


def test_what_is_no_text_is_written_escaped(tmp_path):
    write_json(tmp_path / "explain.json", {"holder": "caf\xe9/\udcff.py:3"})
    text = (tmp_path / "explain.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"holder": "caf\xe9/\udcff.py:3"}
    assert "caf\xe9" in text


def test_summary_is_replaced_whole(tmp_path):
    files = RunFiles(tmp_path)
    files.write_summary({"state": "failed"})
    with pytest.raises(TypeError):
        files.write_summary({"state": object()})
    files.write_summary({"state": "completed", "slope": math.nan})
    text = (tmp_path / "summary.json").read_text()
    assert json.loads(text) == {"state": "completed", "slope": None}
    assert {p.name for p in tmp_path.iterdir()} == {"metrics.jsonl", "events.jsonl", "summary.json"}


@pytest.mark.parametrize(
    ("metric", "expected"), [("active", 1.0), ("mlx", 1.25), ("process", 3.0), ("auto", 3.0)]
)
def test_metric_gb_reads_rows_and_events(metric, expected):
    figures = {"active_gb": 1.0, "cache_gb": 0.25, "process_gb": 3.0}
    assert metric_gb(figures, metric) == expected
    assert metric_gb({f"memory/{k}": v for k, v in figures.items()}, metric) == expected
    assert metric_gb({"cache_gb": 0.25, "process_gb": None}, metric) is None
