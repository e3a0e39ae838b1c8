"""What ``lab whatif`` refuses: one line, exit 2, and nothing left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab.whatif.study import study_of
from tests.runs import jsonl
from tests.whatif.conftest import STEPS, lab, write_lines
from tests.whatif.worlds import World, index_sweep


def _by_mlx_lm(folder: Path) -> None:
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("trainer: lab", "trainer: mlx_lm", 1))


def _sparse(folder: Path) -> None:
    rows = jsonl(folder / "metrics.jsonl")
    write_lines(folder / "metrics.jsonl", [*rows[:21], rows[-1]])


def _foreign(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    (folder / "notes.txt").write_text("not a run")


def _other_version(folder: Path) -> None:
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("version: 2", "version: 99", 1))


def _no_rows(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text("")


def _nonsense(folder: Path) -> None:
    (folder / "metrics.jsonl").write_text('{"step": 1, "memory/process_gb": "x"}\n[]\n\0\n')


def _headless(folder: Path) -> None:
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[30:]))


def _short(folder: Path) -> None:
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:19]))


@pytest.mark.parametrize(
    ("damage", "words", "said"),
    [
        (_foreign, [], "is neither a run's nor a sweep's"),
        (_other_version, [], "this lab reads version 1 and 2"),
        (_no_rows, [], "has no rows with its memory yet"),
        (_nonsense, [], "has no rows with its memory yet"),
        (_short, [], "has 19 rows between reloads, too few to tell: 20 are needed"),
        (_headless, [], "has no rows before step 31"),
        (_sparse, [], "has the memory of 22 of 160 steps, too few to tell"),
        (_by_mlx_lm, [], "trainer=mlx_lm: has no reloads to predict; trainer=lab has"),
        (None, ["train.steps=2000000"], "predicts at most 1,000,000 steps"),
        (None, ["train.batch_size=4"], "varies reload, reload.policy, reload.interval_steps"),
        (None, ["reload.intervall=4"], "lab whatif varies reload"),
        (None, ["interval_steps=4"], "did you mean reload.interval_steps?"),
        (None, ["train.stpes=4"], "did you mean train.steps?"),
        (None, ["reload=sometimes"], "must be one of none, interval"),
        (None, ["reload.interval_steps=-1"], "must be at least 0 steps"),
        (None, ["reload.interval_steps=5.5"], "must be a whole number"),
        (None, ["reload.interval_steps="], "must be one value, or several with commas"),
        (None, ["reload.interval_steps=[5]"], "must be one value, or several with commas"),
        (None, ["reload.interval_steps"], "write reload.interval_steps=V1,V2"),
        (None, ["reload=none", "reload=leak"], "is given twice"),
        (None, ["reload=none", "reload.policy=leak"], "give one of them"),
        (None, ["memory.budget_gb=nan"], "memory.budget_gb"),
        (None, ["memory.budget_gb=.inf"], "memory.budget_gb"),
        (None, ["memory.budget_gb=-1"], "memory.budget_gb=-1.0: must be above 0 GB"),
        (None, ["memory.budget_gb=-1", "reload=threshold"], "memory.budget_gb=-1.0: must be"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Any,
    words: list[str],
    said: str,
) -> None:
    World().train(tmp_path, STEPS)
    if damage:
        damage(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert lab(monkeypatch, tmp_path, *words) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert sorted(tmp_path.iterdir()) == before


def test_too_many_combinations_are_refused(recorded: Path) -> None:
    many = ",".join(map(str, range(200)))
    words = [f"reload.interval_steps={many}", f"reload.leak_threshold_mb={many}"]
    with pytest.raises(ValueError, match="more than 10,000 combinations"):
        study_of(recorded, words)


def test_runs_that_differ_in_more_are_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    World().train(tmp_path / "0", STEPS)
    World().train(tmp_path / "1", STEPS, train__batch_size=1)
    index_sweep(tmp_path, ["0", "1"])
    assert lab(monkeypatch, tmp_path) == 2
    assert "give the folder of one run" in capsys.readouterr().err
