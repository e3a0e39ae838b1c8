"""memory.png comes out of whatever a run has left so far."""

from __future__ import annotations

import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.analysis.curves import read_curves, smoothed, thinned
from lab.analysis.plot import plot_run
from lab.tracking.files import RunFiles

POINTS = st.lists(st.floats(-1e6, 1e6), max_size=500).map(
    lambda values: [(float(step), value) for step, value in enumerate(values, 1)]
)


def make_row(step, **fields):
    row = {"step": step, "loss": 5 / step, "memory/process_gb": 0.5, "memory/active_gb": 0.1}
    return row | fields


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
    curves = read_curves(tmp_path)
    assert curves["loss"] == [(1, 5.0)]
    assert curves["memory/process_gb"] == [(1, 0.5), (3, 0.5)]
    assert curves["val_loss"] == [(3, 2.0)]
    assert curves.reloads == []
    assert size_of(plot_run(tmp_path)) == (1200, 800)


@given(points=POINTS, bins=st.integers(1, 50))
def test_thinned_curves_keep_their_order_and_extremes(points, bins):
    kept = thinned(points, bins)
    assert len(kept) <= max(2 * bins, 0)
    assert kept == sorted(set(kept))
    assert set(kept) <= set(points)
    if points:
        values, kept_values = [v for _, v in points], [v for _, v in kept]
        assert (min(values), max(values)) == (min(kept_values), max(kept_values))


@given(points=POINTS)
def test_smoothed_curves_stay_within_the_curve(points):
    result = smoothed(points)
    assert [step for step, _ in result] == [step for step, _ in points]
    if points:
        low, high = min(v for _, v in points), max(v for _, v in points)
        assert all(low - 1e-3 <= value <= high + 1e-3 for _, value in result)
        assert math.isclose(result[0][1], points[0][1], abs_tol=1e-6)
