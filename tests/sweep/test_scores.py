"""The end of a sweep whose jobs a sampler chose: each trial's objective, and the best one."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from lab.sweep.index import INDEX_FILE, Job, SweepIndex
from lab.sweep.report import close_sweep
from tests.compared import SHARES, write_config, write_run, write_sweep


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three trials whose objective is the final loss; the last one has failed."""
    folder = write_sweep(tmp_path / "sweep", (0,))
    write_run(folder / "1", {"reload.interval_steps": 5}, shift=-0.05)
    Job(number=1, overrides=("reload.interval_steps=5",), exit_code=0).write(folder / "1")
    (folder / "2").mkdir()
    Job(number=2, overrides=("reload.interval_steps=9",), exit_code=1).write(folder / "2")
    write_index(folder, jobs=(), resumable=True)
    return folder


def write_index(folder: Path, **changed: object) -> None:
    index = replace(SweepIndex.read(folder), **changed)
    (folder / INDEX_FILE).write_text(index.text())


def told(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert close_sweep(folder, 0) == 1
    said = capsys.readouterr().out
    assert "\x1b" not in said
    return said


def test_the_best_trial_is_marked_and_named(study: Path, capsys) -> None:
    said = told(study, capsys)
    assert re.search(r"^job .* objective *$", said, re.MULTILINE)
    assert re.search(r"^ +0 .* 0\.1250 *$", said, re.MULTILINE)
    assert re.search(r"^ +1 .* \* 0\.0750 *$", said, re.MULTILINE)
    assert re.search(r"^ +2 .* failed .* - *$", said, re.MULTILINE)
    assert "\nbest     job 1: interval_steps=5, final_loss 0.0750\n" in said
    assert "why      " in said
    assert "resume   " in said


def test_the_best_of_a_study_that_maximizes_is_the_largest(study: Path, capsys) -> None:
    write_index(study, overrides=("hydra.sweeper.direction=maximize",))
    assert "best     job 0: interval_steps=0" in told(study, capsys)


def test_a_grid_has_no_best(study: Path, capsys) -> None:
    jobs = tuple((f"reload.interval_steps={n}",) for n in (0, 5, 9))
    write_index(study, jobs=jobs)
    said = told(study, capsys)
    assert "objective" not in said
    assert "best  " not in said


@pytest.mark.parametrize(("metric", "head"), [("process", "process"), ("mlx", "MLX")])
def test_the_peak_in_the_table_is_of_the_memory_that_the_policies_watch(
    study: Path, capsys: pytest.CaptureFixture[str], metric: str, head: str
) -> None:
    for job in ("0", "1"):
        write_config(study / job, {"reload.metric": metric})
    said = told(study, capsys)
    assert f"peak GB, {head}" in said
    share = {"process": 1.0, "mlx": SHARES["active"] + SHARES["cache"]}[metric]
    assert f" {(1 + 39 / 50) * share:.3f} " in said
