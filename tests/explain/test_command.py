"""``lab explain`` of every kind of folder: a clear line, and never a traceback."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.cli import main
from lab.explain.curve import explain_curve

GROWN = {
    "version": 1,
    "step": 8,
    "grows": True,
    "mb_per_step": 1.0,
    "confidence": 0.99,
    "kinds": [{"kind": "active", "mb_per_step": 1.0}],
    "kind": "active",
    "holder": "lab.train.session.Session.history[7]",
    "holders": [{"array": "[4] float32", "count": 8, "more": 6}],
    "remedies": [{"remedy": "collect", "freed_gb": 0.5, "seconds": 0.1}],
    "remedy": "reload_in_process",
    "advice": "Empty it",
}
TRIED = [
    *GROWN["remedies"],
    {"remedy": "reload_in_process", "freed_gb": 1.0, "seconds": 0.2},
]
COPY = {"from_step": 1, "steps": 2, "grown_gb": 1.0}


def rows(
    count: int, slope_gb: float = 0.0, noise_gb: float = 1e-4, **more: Any
) -> list[dict[str, Any]]:
    draw = random.Random(1)
    return [
        {
            "step": step,
            "memory/process_gb": 1 + slope_gb * step + draw.gauss(0, noise_gb),
            "memory/active_gb": 0.5,
            "memory/cache_gb": 0.0,
            **more,
        }
        for step in range(1, count + 1)
    ]


def write(folder: Path, found: list[dict[str, Any]], explained: Any = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    if explained is not None:
        text = explained if isinstance(explained, str) else json.dumps(explained)
        (folder / "explain.json").write_text(text)
    return folder


def explain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *arguments: object
) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["lab", "explain", *map(str, arguments)])
    code = main()
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.mark.parametrize(
    ("found", "content", "code", "says"),
    [
        (rows(20), GROWN, 0, "arrays in lab.train.session.Session.history[7]; remedy reload"),
        (rows(1000), None, 0, "Nothing grows: "),
        (rows(1000), None, 0, "with 99.9% confidence"),
        (rows(90, noise_gb=0.01), None, 0, "No growth is certain: "),
        (rows(1000, 1 / 1024), None, 0, "memory grows by 1 MB a step"),
        (rows(1000, 1 / 1024), None, 0, "its curve alone"),
        (rows(90, noise_gb=0.01), None, 0, "confidence\n  advice   More steps would tell\n"),
        (rows(1000), None, 0, "confidence\n  advice   No remedy and no reload is needed\n"),
        (rows(30), None, 0, "Too short to tell: 20 steps"),
        ([], None, 0, "Too short to tell: 0 steps"),
        (rows(9), {**GROWN, "version": 7}, 2, "is of version 7, this lab reads 1"),
        (rows(9), "{", 2, "cannot be read"),
        (rows(9), "[" * 100_000, 2, "cannot be read: it is nested too deeply"),
        (rows(9), {"version": 1, "advice": "Empty history"}, 0, "memory does not grow\n"),
        (rows(9), [1], 2, "is of version None"),
        (rows(9), {"version": 1, "kinds": 3, "holder": [1], "remedies": "x"}, 0, "does not grow"),
        (rows(9), {**GROWN, "holder": "a\x1b[2J\nb"}, 0, "arrays in a [2J b"),
        (rows(9), {"version": "\x1b[2J"}, 2, "is of version  [2J"),
        (
            rows(9),
            {**GROWN, "remedy": "magic"},
            0,
            "arrays in lab.train.session.Session.history[7]\n",
        ),
        (rows(9), {**GROWN, "remedies": TRIED}, 0, "in 0.100 s, too little of what grows\n"),
        (rows(9), {**GROWN, "remedies": TRIED}, 0, "1024.00 MB given back in 0.200 s\n"),
        (rows(9), {**GROWN, "copy": {**COPY, "expected": []}}, 0, "in a copy from step 1 on"),
        ([row | {"step": 1} for row in rows(90)], None, 0, "Too short to tell: 1 steps"),
        ([row | {"step": 10**400} for row in rows(90)], None, 0, "Too short to tell: 0 steps"),
        ([{"step": step} for step in range(90)], None, 0, "Too short to tell: 0 steps"),
        (rows(90, **{"memory/process_gb": 10**400}), None, 0, "Nothing grows: "),
    ],
)
def test_each_is_a_clear_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    found: list,
    content: Any,
    code: int,
    says: str,
) -> None:
    folder = write(tmp_path / "run", found, content)
    got, said = explain(monkeypatch, capsys, folder)
    assert got == code
    assert says in said
    assert "\x1b" not in said


def test_the_kind_that_is_told_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    warming_up = [{"kind": "native", "mb_per_step": 1.6}, *GROWN["kinds"]]
    folder = write(tmp_path / "run", rows(20), {**GROWN, "kinds": warming_up})
    kinds = [line.split()[1] for line in explain(monkeypatch, capsys, folder)[1].splitlines()[1:3]]
    assert kinds == ["active", "native"]


def test_no_run_is_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    code, said = explain(monkeypatch, capsys, tmp_path)
    assert code == 2
    assert "give the folder of a run" in said


def test_json_is_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    code, said = explain(monkeypatch, capsys, write(tmp_path, rows(9), GROWN), "--json")
    assert (code, json.loads(said)) == (0, GROWN)


def test_json_is_ascii_whatever_is_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    hostile = GROWN | {"holder": "\ud800\x9b2J\u202e"}  # no text, a terminal's command, reversed
    code, said = explain(monkeypatch, capsys, write(tmp_path, rows(9), hostile), "--json")
    assert (code, json.loads(said)) == (0, hostile)
    assert said.isascii()


def test_json_has_null_for_what_is_no_number_of_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    remedy = {"remedy": "collect", "freed_gb": float("inf"), "seconds": float("nan")}
    endless = GROWN | {"remedies": [remedy]}
    code, said = explain(monkeypatch, capsys, write(tmp_path, rows(9), endless), "--json")
    nothing = {"remedy": "collect", "freed_gb": None, "seconds": None}
    assert (code, json.loads(said)) == (0, GROWN | {"remedies": [nothing]})


def test_what_mlx_holds_is_growth_where_the_process_does_not_grow() -> None:
    """On CUDA arrays are no memory of the process; elsewhere it may reuse what was freed."""
    found = explain_curve(row | {"memory/active_gb": row["step"] / 1024} for row in rows(300))
    assert (found["grows"], found["kind"]) == (True, "active")
    assert found["mb_per_step"] == pytest.approx(1.0, rel=0.01)
    saw = (row | {"memory/cache_gb": row["step"] % 10 / 100} for row in rows(300))
    assert not explain_curve(saw)["grows"]


def test_a_curves_kind_is_the_counter_that_grows() -> None:
    cache = [row | {"memory/cache_gb": row["step"] / 1024} for row in rows(300, 1 / 1024)]
    assert explain_curve(cache)["kind"] == "cache"
    assert explain_curve(cache)["remedy"] == "clear_cache"
    assert explain_curve(rows(300, 1 / 1024))["kind"] == "other"


def test_only_the_longest_stretch_between_reloads_counts() -> None:
    saw = [
        row | {"reload/count": row["step"] // 100, "memory/process_gb": row["step"] % 100 / 1024}
        for row in rows(350)
    ]
    found = explain_curve(saw)
    assert found["grows"]
    assert found["mb_per_step"] == pytest.approx(1.0)


def test_the_bound_holds_on_steady_runs() -> None:
    """Of 200 steady curves with correlated noise none is called growing."""
    wrong = 0
    for seed in range(200):
        draw, level, found = random.Random(seed), 0.0, []
        for row in rows(500):
            level = 0.8 * level + draw.gauss(0, 0.002)
            found.append(row | {"memory/process_gb": 1 + level})
        wrong += explain_curve(found)["grows"]
    assert wrong == 0
