"""``lab reproduce SWEEP``: every job made again, and what the sweep says of its settings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lab.cli import main
from lab.reproduce.compare_records import Records
from lab.reproduce.reproduce import Reproduction
from lab.reproduce.sweep import conclusions
from lab.sweep.index import INDEX_FILE, SWEEP_VERSION, Job, SweepIndex
from lab.sweep.lease import SweepLease
from tests.runs import Run, start

JOBS = (("seed=0",), ("seed=0",), ("seed=x",))


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep's folder, without any job yet."""
    index = SweepIndex(
        version=SWEEP_VERSION, overrides=(), resumable=False, swept=("seed",), jobs=JOBS,
        side_by_side=1, host="here",
    )  # fmt: skip
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / INDEX_FILE).write_text(index.text())
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def sweep(begun: Path) -> Path:
    """A sweep of one job as it was, one whose losses were other ones, and one that was refused."""
    folder = begun
    first = start(folder / "0", "train.steps=3", "reload=none")
    shutil.copytree(first.folder, folder / "1")
    changed = Run(folder / "1", first.result)
    rows = changed.rows
    rows[1]["loss"] += 1.0
    (changed.folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for number, overrides in enumerate(JOBS):
        code = 2 if number == 2 else 0
        Job(number=number, overrides=overrides, exit_code=code).write(folder / str(number))
    return folder


def test_each_job_has_its_line_and_the_worst_is_the_exit_code(
    sweep: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["reproduce", "sweep"]) == 1
    told = capsys.readouterr().out
    table = [line.split() for line in told[told.index("job  result") :].splitlines()]
    assert table[1][:2] == ["0", "identical"]
    assert table[2][:5] == ["1", "different", "from", "step", "2"]
    assert table[3][:3] == ["2", "not", "compared"]
    assert table[4] == "1 of 3 jobs are identical".split()
    assert [line[0] for line in table[5:]] == ["peak", "overhead", "final"]
    assert table[1][-1].startswith("outputs/runs/")


def test_a_sweep_that_goes_on_or_has_not_begun_is_refused(
    begun: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["reproduce", "sweep"]) == 2
    assert "none of its jobs has begun" in capsys.readouterr().err
    lease = SweepLease(begun)
    try:
        assert main(["reproduce", "sweep"]) == 2
    finally:
        lease.release()
    assert "is still going on in another process" in capsys.readouterr().err
    assert not Path("outputs").exists()


def reproduced(then: float | None, now: float | None) -> Reproduction:
    was, is_now = ({"peak_process_gb": gb, "final_loss": 1.0} for gb in (then, now))
    return Reproduction(0, Records(figures=was), now=Records(figures=is_now))


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ([(2, 2.1), (1, 1.1)], "best is job 1, then and now; the jobs have the same order"),
        ([(2, 1), (1, 2)], "best is job 1 then, job 0 now; the order was 1 0, and is 0 1"),
        (
            [(1, 1), (2, 3), (3, 2)],
            "best is job 0, then and now; the order was 0 1 2, and is 0 2 1",
        ),
        ([(1, 1), (1, 1)], "all 2 jobs are equal, then and now"),
        ([(1, 1), (None, 2)], "not to be compared: fewer than two jobs have it, then and now"),
        ([(1, 1), (float("nan"), "x")], "not to be compared: fewer than two"),
    ],
)
def test_whether_the_same_job_is_best_is_one_line(figures: list, said: str):
    made = {job: reproduced(*pair) for job, pair in enumerate(figures)}
    peak, overhead, loss = conclusions(made)
    assert peak.startswith(f"peak memory  {said}")
    assert overhead.endswith("fewer than two jobs have it, then and now")
    assert loss == f"final loss   all {len(figures)} jobs are equal, then and now"
