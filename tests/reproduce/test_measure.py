"""``lab explain RUN --measure``: a copy tells what gives memory back; the run stays."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab.cli import main
from lab.config.keys import dump
from lab.config.units import MB
from lab.explain.explanation import Explanation
from lab.explain.measured import Change, Copied, Tried, with_measured
from lab.explain.report import lines
from lab.faults.truth import TRUTHS
from lab.reproduce.measure import MOST_STEPS, Plan, read_copy
from tests.explain.test_command import GROWN, rows, write
from tests.runs import Run, config_of, start

SHORT = ("train.steps=20", "reload=none", "data=stdlib_docs")
RUNGS = ["clear_cache", "collect", "reload_in_process", "reload_process"]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where copies are made, and where nothing of them is left.

    Not by ``TMPDIR``, where MLX keeps what it has compiled.
    """
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def explained(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "explain.json").read_text())


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def measure(monkeypatch: pytest.MonkeyPatch, run_dir: Path, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lab", "explain", str(run_dir), "--measure", *options])
    return main()


# --- Real runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "trainer_list",
        "module_list",
        pytest.param("cycles", marks=pytest.mark.slow),
        pytest.param("ragged_cache", marks=pytest.mark.slow),
    ],
)
def test_the_cheapest_rung_that_works_is_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, name: str
) -> None:
    run = start(tmp_path / "run", f"fault={name}", *SHORT)
    before = explained(run.folder) | {"remedy": "none", "remedy_is": "expected"}
    (run.folder / "explain.json").write_text(json.dumps(before))
    files = files_of(run.folder)
    assert measure(monkeypatch, run.folder) == 0
    found, remedy = explained(run.folder), TRUTHS[name].remedy
    assert (found["remedy"], found["remedy_is"]) == (remedy, "measured")
    assert [row["remedy"] for row in found["remedies"]] == RUNGS
    for row in found["remedies"]:
        works = RUNGS.index(row["remedy"]) >= RUNGS.index(remedy)
        assert (row["freed_gb"] * 1024 > 12) == works
        assert row["measured"] is True
        assert row["seconds"] > 0
    changed = {file for file, content in files_of(run.folder).items() if files[file] != content}
    assert changed == {"explain.json"}
    told = capsys.readouterr().out
    assert "measured in a copy from step 20 on, where 2" in told
    assert "expected none, before it was measured" in told


@pytest.mark.slow
def test_without_census_and_checkpoint_it_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run = start(
        tmp_path / "run", "fault=trainer_list", *SHORT, "train.steps=60",
        "explain.enabled=false", "checkpoint.enabled=false",
    )  # fmt: skip
    assert measure(monkeypatch, run.folder) == 0
    assert explained(run.folder)["remedy"] == "reload_in_process"
    assert explained(run.folder)["copy"]["from_step"] == 0
    assert "its curve alone: no census was taken" in capsys.readouterr().out


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in which nothing grows, and which says that 2 MB a step of arrays do."""
    run = start(tmp_path_factory.mktemp("steady") / "run", "explain.enabled=false", *SHORT)
    said = GROWN | {"mb_per_step": 2.0, "kinds": [{"kind": "active", "mb_per_step": 2.0}]}
    (run.folder / "explain.json").write_text(json.dumps(said))
    return run


def test_a_copy_in_which_nothing_grows_measures_nothing(
    steady: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = files_of(steady.folder)
    assert measure(monkeypatch, steady.folder) == 1
    assert "nothing was measured: in 16 steps of the copy" in caplog.text
    assert files_of(steady.folder) == files


def test_ctrl_c_leaves_nothing_behind(steady: Run, repo: Path, temporary: Path) -> None:
    files = files_of(steady.folder)
    there = f"import sys, tempfile; tempfile.tempdir = {str(temporary)!r}"
    lab = f"{there}; from lab.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", lab, "explain", str(steady.folder), "--measure", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(repo)},
    )  # fmt: skip
    assert process.stderr is not None
    next(line for line in process.stderr if line.startswith("step "))
    process.send_signal(signal.SIGINT)
    said, told = process.communicate()
    assert process.returncode == 130
    assert said == ""  # of --json, that is all
    assert "nothing was measured: it was interrupted" in told
    assert "Traceback" not in told
    assert files_of(steady.folder) == files


def test_a_signal_while_the_copy_is_made_leaves_nothing_behind(
    steady: Run, repo: Path, temporary: Path
) -> None:
    lab = f"""
import os, signal, sys, tempfile
from lab.cli import main

def stop(event, _):
    if event == "shutil.copytree":  # the copy's folder is there, no worker is yet
        os.kill(os.getpid(), signal.SIGTERM)

tempfile.tempdir = {str(temporary)!r}
sys.addaudithook(stop)
sys.exit(main())
"""
    files = files_of(steady.folder)
    ended = subprocess.run(
        [sys.executable, "-c", lab, "explain", str(steady.folder), "--measure"],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(repo)}, check=False,
    )  # fmt: skip
    assert ended.returncode == 143
    assert "nothing was measured: it was interrupted" in ended.stdout
    assert ended.stderr == ""
    assert files_of(steady.folder) == files


# --- Refused ------------------------------------------------------------------------------------


def run_of(folder: Path, *overrides: str, grows: bool = True, steps: int = 9) -> Path:
    write(folder, rows(steps), GROWN if grows else None)
    (folder / "config.yaml").write_text(dump(config_of("tracker=none", *overrides)))
    return folder


@pytest.mark.parametrize(
    ("overrides", "grows", "steps", "says"),
    [
        ((), False, 30, "Too short to tell: 20 steps"),
        ((), False, 1000, "confidence; nothing to measure"),
        (("trainer=mlx_lm",), True, 9, "trainer=mlx_lm: has no reloads to measure"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    overrides: tuple[str, ...],
    grows: bool,
    steps: int,
    says: str,
) -> None:
    run_dir = run_of(tmp_path / "run", *overrides, grows=grows, steps=steps)
    assert measure(monkeypatch, run_dir) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert says in line


def test_no_run_a_sweep_or_a_live_run_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    live = run_of(tmp_path / "sweep" / "0")
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    assert measure(monkeypatch, tmp_path / "gone") == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert measure(monkeypatch, tmp_path / "sweep") == 2
    assert "is not one run; give one of its runs: " in capsys.readouterr().err
    with (live / "metrics.jsonl").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert measure(monkeypatch, live) == 2
    assert "is still going on in another process" in capsys.readouterr().err


def test_a_model_that_is_gone_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = run_of(tmp_path / "run")
    config = config_of("tracker=none")
    gone = replace(config, model=replace(config.model, path="gone", scratch=None))
    (run_dir / "config.yaml").write_text(dump(gone))
    assert measure(monkeypatch, run_dir) == 2
    [line] = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith("model.path=gone: ")


def test_rows_that_cannot_be_read_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = run_of(tmp_path / "run")
    (run_dir / "metrics.jsonl").unlink()
    (run_dir / "metrics.jsonl").mkdir()
    assert measure(monkeypatch, run_dir) == 1
    assert "nothing was measured: " in caplog.text


# --- What follows from figures ------------------------------------------------------------------


def change(active_mb: float, process_mb: float | None = None) -> Change:
    process = active_mb if process_mb is None else process_mb
    return Change(process * MB, active_mb * MB, 0.0)


def test_growth_is_waited_for_and_never_longer_than_the_limit() -> None:
    at_8 = Explanation(step=8)
    assert Plan.of(at_8, 1.0, 24) == Plan(24, waits=0, grows=24)
    assert Plan.of(at_8, 10.0, 0) == Plan(0, waits=8, grows=16)
    assert Plan.of(Explanation(step=9999), 1e-300, 0) == Plan(0, MOST_STEPS, MOST_STEPS)


@pytest.mark.parametrize(
    ("freed", "remedy"),
    [
        ([12, 12, 24, 24], "clear_cache"),
        ([0, 11, 24, 24], "reload_in_process"),
        ([0, 0, -3, 24], "reload_process"),
        ([0, 0, 0, 0], "none"),
    ],
)
def test_the_cheapest_that_gave_half_back_is_the_remedy(freed: list[int], remedy: str) -> None:
    tried = [Tried(n, change(mb), 0.1) for n, mb in zip(RUNGS, freed, strict=True)]
    found = with_measured(GROWN, tried, change(24), start=0, steps=24)
    assert found["remedy"] == remedy
    assert [row["freed_gb"] * 1024 for row in found["remedies"]] == [max(mb, 0) for mb in freed]
    again = with_measured(found, tried, change(24), start=0, steps=24)
    assert again == found  # the expected remedy is kept, and advice does not grow
    assert found["advice"].startswith("Empty it; until then ")
    said = "\n".join(lines(Explanation.of(found)))
    assert ("expected reload_in_process" in said) == (remedy != "reload_in_process")


def test_slack_that_the_process_gives_back_is_no_remedy_for_arrays() -> None:
    tried = [Tried(n, change(0, 24), 0.1) for n in RUNGS]
    assert with_measured(GROWN, tried, change(24), start=0, steps=24)["remedy"] == "none"


def test_what_anybody_wrote_of_a_copy_is_read() -> None:
    said = {"from_step": 1, "steps": 2, "grown_gb": 0.5, "expected": ["none"]}
    assert Copied.of(said) == Copied(1, 2, 0.5, "")


def test_a_first_step_that_was_short_takes_nothing_off_a_reload(tmp_path: Path) -> None:
    plan = Plan(start=0, waits=0, grows=16)
    memory = {f"memory/{name}_gb": 0.5 for name in ("process", "active", "cache")}
    events = [
        {"event": "remedy", "step": step, "before": memory, "after": memory, "seconds": 0.5}
        for step in plan.remedies.by_step
    ]
    reload = {"event": "reload", "seconds": {"save": 0.25, "load": 0.5, "first_step": -0.5}}
    write(tmp_path, [])
    text = "".join(json.dumps(event) + "\n" for event in [*events[:-1], events[-1] | reload])
    (tmp_path / "events.jsonl").write_text(text)
    tried, _ = read_copy(tmp_path, plan)
    assert [one.seconds for one in tried] == [0.5, 0.5, 0.5, 0.75]
