"""memory.png is drawn from whatever a run has written so far."""

from __future__ import annotations

import json
import math
import resource
import struct
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lab.cli
from lab.plots.columns import read_columns, read_reloads
from lab.plots.curves import Curve, smoothed, thinned
from lab.plots.memory_plot import plot_run
from lab.records.files import RunFiles
from tests.compared import write_config, write_sweep

VALUES = st.lists(st.floats(-1e6, 1e6), max_size=500).map(lambda v: np.array(v, float))


def make_row(step, **fields):
    row = {"step": step, "loss": 5 / step, "memory/process_gb": 0.5, "memory/active_gb": 0.1}
    return row | fields


def points(curve):
    return list(zip(curve.x, curve.y, strict=True))


def size_of(png):
    head = png.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n")
    return struct.unpack(">II", head[16:])


def make_run(folder, steps, reloads=()):
    files = RunFiles(folder)
    for step in range(1, steps + 1):
        files.row(make_row(step))
    for step in reloads:
        files.event({"event": "reload", "step": step, "reason": "interval"})
    files.close()


@pytest.mark.parametrize(
    ("steps", "reloads"), [(0, []), (1, []), (2, [1]), (3000, range(10, 3000, 10))]
)
def test_a_run_of_any_length_has_a_picture(tmp_path, steps, reloads):
    make_run(tmp_path, steps, reloads)
    assert size_of(plot_run(tmp_path)) == (1200, 800)
    assert {p.name for p in tmp_path.glob("*.png")} == {"memory.png"}


def test_an_empty_folder_has_a_picture(tmp_path):
    assert size_of(plot_run(tmp_path)) == (1200, 800)


def test_a_picture_is_drawn_anew(tmp_path):
    make_run(tmp_path, 2)
    before = plot_run(tmp_path).read_bytes()
    files = RunFiles(tmp_path)
    files.row(make_row(3))
    assert plot_run(tmp_path).read_bytes() != before


def test_somebody_elses_picture_is_refused_and_left(tmp_path, monkeypatch, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    picture = tmp_path / "memory.png"
    picture.write_bytes(b"\x89PNG")
    monkeypatch.setattr(sys, "argv", ["lab", "plot", str(tmp_path)])
    assert lab.cli.main() == 2
    assert capsys.readouterr().err.endswith("that this lab did not make; move it away\n")
    assert picture.read_bytes() == b"\x89PNG"


def test_a_picture_that_finds_no_room_is_one_line(tmp_path, capsys):
    make_run(tmp_path, 2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        assert lab.cli.main(["plot", str(tmp_path)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capsys.readouterr().err == f"cannot draw {tmp_path}: File too large\n"
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize("command", ["plot", "compare", "explain", "whatif"])
def test_a_folder_of_which_nothing_can_be_read_is_one_line(tmp_path, capsys, command):
    for name in ("config.yaml", "metrics.jsonl"):
        (tmp_path / name).write_bytes(bytes(range(256)) * 20)
    assert lab.cli.main([command, str(tmp_path)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert "can be read" in told.err or "cannot be read" in told.err
    assert "damaged" in told.err
    assert "codec" not in told.err
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("command", ["plot", "explain", "whatif"])
def test_a_run_whose_rows_are_rubbish_is_not_one_that_has_just_begun(tmp_path, capsys, command):
    write_config(tmp_path, {})
    (tmp_path / "metrics.jsonl").write_bytes(bytes(range(256)) * 20)
    assert lab.cli.main([command, str(tmp_path)]) == 2
    said = f"run={tmp_path}/metrics.jsonl: is damaged: it holds no row that can be read\n"
    assert capsys.readouterr() == ("", said)


def test_half_a_first_row_is_no_damage(tmp_path, capsys):
    write_config(tmp_path, {})
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "ti')
    assert lab.cli.main(["plot", str(tmp_path)]) == 0
    assert lab.cli.main(["explain", str(tmp_path)]) == 0
    assert "Too short to tell" in capsys.readouterr().out


def test_a_damaged_run_of_a_sweep_keeps_no_other_from_being_drawn(tmp_path, capsys):
    sweep = write_sweep(tmp_path / "sweep", intervals=(0, 5))
    (sweep / "0" / "metrics.jsonl").write_bytes(b"\x93" * 100)
    assert lab.cli.main(["plot", str(sweep)]) == 1
    told = capsys.readouterr()
    assert told.out == f"{sweep / '1' / 'memory.png'}\n"
    assert "0/metrics.jsonl: is damaged" in told.err


def test_half_a_last_line_nulls_and_other_rubbish_are_left_out(tmp_path):
    rows = [
        make_row(1),
        make_row(2, loss=None, **{"memory/process_gb": None}),
        make_row(3, loss="text", val_loss=2.0),
        {"loss": 1.0},
        ["not", "a", "row"],
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 4, "loss": 1')
    (tmp_path / "events.jsonl").write_text('{"event": "reload"}\nrubbish\n{"event": "rel')
    (tmp_path / "config.yaml").write_text("rubbish: [")
    columns = read_columns(tmp_path)
    assert points(columns.curve("loss")) == [(1, 5.0)]
    assert points(columns.curve("memory/process_gb")) == [(1, 0.5), (3, 0.5)]
    assert points(columns.curve("val_loss")) == [(3, 2.0)]
    assert list(read_reloads(tmp_path)) == []
    assert size_of(plot_run(tmp_path)) == (1200, 800)


@given(values=VALUES, bins=st.integers(1, 50))
def test_thinned_curves_keep_each_bins_extremes_in_order(values, bins):
    curve = Curve(np.arange(len(values)) + 1.0, values)
    kept = thinned(curve, bins)
    assert set(points(kept)) <= set(points(curve))
    assert sorted(set(kept.x)) == list(kept.x)
    if len(values) <= 2 * bins:
        assert len(kept) == len(values)
        return
    for low, high in pairwise(number * len(values) // bins for number in range(bins + 1)):
        inside = kept.y[(kept.x > low) & (kept.x <= high)]
        assert set(inside) == {min(values[low:high]), max(values[low:high])}
        assert len(inside) <= 2


@given(values=VALUES)
def test_smoothed_curves_stay_within_the_curve(values):
    result = smoothed(values)
    assert len(result) == len(values)
    if len(values):
        assert values.min() - 1e-3 <= result.min()
        assert result.max() <= values.max() + 1e-3
        assert math.isclose(result[0], values[0], abs_tol=1e-6)


def test_smoothing_is_the_mean_around_each_value():
    assert list(smoothed(np.array([1.0, 2.0, 6.0, 4.0]))) == [1.0, 3.0, 4.0, 4.0]
