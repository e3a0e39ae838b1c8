"""A folder of runs and sweeps that only looks as if something had been trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compared import write_run, write_sweep

FIRST, CUT = "runs/2026-11-23/23-24-03_first", "runs/2026-11-24/00-10-00_cut"
SWEEP = "sweeps/2026-11-24/09-00-00_intervals"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """A run that is complete, one that was killed, and a sweep."""
    folder = tmp_path / "outputs"
    write_sweep(folder / SWEEP, (0, 10), steps=20)
    write_run(folder / FIRST, {"name": "first"}, every=10)
    write_run(folder / CUT, {"name": "cut", "train.steps": 100}, steps=33)
    (folder / CUT / "summary.json").unlink()
    return folder
