"""``lab ls``: what is there, from folders that may hold anything."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.catalog.cache import cache_file, list_entries
from lab.catalog.entries import FILES, STATES, RunEntry, read_run, stamp_of
from lab.catalog.find import find_runs
from lab.catalog.listing import table
from lab.cli import main
from lab.records.files import RunFiles
from tests.catalog.conftest import CUT, FIRST, SWEEP
from tests.compared import with_test_loss, write_run


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert main(["ls", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["ls", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_newest_is_last_and_a_sweep_is_one_line(
    outputs: Path, capsys: pytest.CaptureFixture[str]
):
    head, first, cut, sweep = lines(capsys)
    assert head.split()[:3] == ["date", "name", "state"]
    assert first.split() == [
        *("2026-11-23", "23:24", "first", "completed", "40/40", "0.1250", "1.180", "3"),
        f"outputs/{FIRST}",
    ]
    assert cut.split()[2:5] == ["cut", "killed", "33/100"]
    assert "sweep intervals" in sweep
    assert "2 jobs, 2 completed" in sweep


def test_a_sweep_unfolds_with_all_or_where_it_is_the_folder(
    outputs: Path, capsys: pytest.CaptureFixture[str]
):
    paths = [f"outputs/{SWEEP}{job}" for job in ("", "/0", "/1")]
    assert [line.split()[-1] for line in lines(capsys, "--all")[-3:]] == paths
    assert [line.split()[-1] for line in lines(capsys, f"outputs/{SWEEP}")[1:]] == paths


def test_the_loss_of_test_data_is_shown_where_a_run_has_one(
    outputs: Path, capsys: pytest.CaptureFixture[str]
):
    assert "test loss" not in lines(capsys, "--all")[0]
    with_test_loss(outputs / SWEEP / "1", 1.25)
    assert "test loss" not in lines(capsys)[0]  # its job has no line
    head, *_, other, tested = lines(capsys, "--all")
    assert " loss  test loss  peak GB " in head
    assert tested.split()[4:6] == ["0.2500", "1.2500"]
    assert other.split()[4:6] == ["0.2500", "-"]
    assert listed(capsys)[2]["jobs"][1]["test_loss"] == 1.25


@pytest.mark.parametrize("store", ["mlruns", "of_my_own"])
def test_the_copies_of_runs_files_in_a_store_of_mlflow_are_no_runs(
    outputs: Path, capsys: pytest.CaptureFixture[str], store: str
):
    experiment = outputs / store / "123"
    artifacts = experiment / "0a1b" / "artifacts"
    shutil.copytree(outputs / CUT, artifacts)
    for folder in (experiment, artifacts.parent):
        (folder / "meta.yaml").write_text("name: mlx-memory-lab\n")
    assert [entry["path"] for entry in listed(capsys)] == [
        f"outputs/{path}" for path in (FIRST, CUT, SWEEP)
    ]
    found = find_runs([outputs]).locations
    assert not [location for location in found if store in location.folder.parts]


def test_a_program_reads_all_of_it(outputs: Path, capsys: pytest.CaptureFixture[str]):
    first, cut, sweep = listed(capsys)
    assert (first["kind"], first["steps"], first["reloads"]) == ("run", 40, 3)
    assert (cut["final_loss"], cut["peak_process_gb"]) == pytest.approx((5 / 33, 1.64))
    assert (sweep["kind"], sweep["planned"], sweep["completed"]) == ("sweep", 2, 2)
    assert [job["job"] for job in sweep["jobs"]] == [0, 1]


def test_a_state_chooses_runs_and_jobs(outputs: Path, capsys: pytest.CaptureFixture[str]):
    (outputs / SWEEP / "1" / "summary.json").unlink()
    found = listed(capsys, "--state", "killed,failed")
    assert [entry["path"] for entry in found] == [f"outputs/{CUT}", f"outputs/{SWEEP}/1"]
    assert [entry["kind"] for entry in listed(capsys, "--state", "interrupted")] == ["sweep"]
    assert lines(capsys, "--state", "refused") == ["no runs in outputs that are refused"]
    assert main(["ls", "--state", "kiled"]) == 2
    assert capsys.readouterr().err.startswith("--state=kiled: did you mean killed? one of running")


def test_a_run_that_goes_on_is_running_though_it_was_cut_off_before(
    outputs: Path, capsys: pytest.CaptureFixture[str]
):
    assert [entry["name"] for entry in listed(capsys, "--state", "killed")] == ["cut"]
    writer = RunFiles(outputs / CUT)
    try:
        assert [entry["name"] for entry in listed(capsys, "--state", "running")] == ["cut"]
    finally:
        writer.close()
    assert listed(capsys, "--state", "running") == []


def test_no_folder_yet_is_no_error_and_a_wrong_one_is(capsys: pytest.CaptureFixture[str]):
    assert lines(capsys) == ["no runs in outputs"]
    assert main(["ls", "nowhere"]) == 2
    assert "folder=nowhere: there is no such folder" in capsys.readouterr().err


# --- Width --------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_line_wraps_in_a_terminal(tmp_path: Path, width: int):
    long = "reload=interval,optimizer.learning_rate=0.0001,train.steps=40"
    run = RunEntry(
        folder=tmp_path / f"10-00-00_{long}", started=1.8e9, name=long, state="budget_exceeded",
        steps=9999, total_steps=10_000, final_loss=12.5, peak_gb=101.25, reloads=100,
    )  # fmt: skip
    shown = table([run], unfold=False, width=width)
    assert max(map(len, shown)) <= width
    assert all(part in shown[1] for part in ("10-00-00_rel", "9999/10000", "12.5000", "101.250"))
    assert str(run.folder) in table([run], unfold=False, width=None)[1]


# --- Hostile folders ----------------------------------------------------------------------------


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "half a summary": ("summary.json", lambda path: path.write_text('{"state": "comp')),
    "a summary that is a list": ("summary.json", lambda path: path.write_text("[1]")),
    "nested too deeply": ("summary.json", lambda path: path.write_text("[" * 100_000)),
    "figures of other types": (
        "summary.json",
        lambda path: path.write_text(
            '{"state": "completed", "steps": "x", "reloads": {"a": [], "b": -1}, "final_loss": {}}'
        ),
    ),
    "a state with control codes": (
        "summary.json",
        lambda path: path.write_text('{"state": "\\u001b[31m\\n", "steps": 1}'),
    ),
    "a summary that is a pipe": ("summary.json", _as_pipe),
    "a config that is a folder": ("config.yaml", _as_folder),
    "a config that is no text": ("config.yaml", lambda path: path.write_bytes(b"\xff\x00" * 99)),
    "a name over many lines": (
        "config.yaml",
        lambda path: path.write_text('name: "a\\n\\u202e\\e[31m"\ntrain:\n  steps: 1\n'),
    ),
    "rows that are none": ("metrics.jsonl", lambda path: path.write_bytes(b"\x80{}\n" * 50)),
    "a file from the far future": ("config.yaml", lambda path: os.utime(path, (2**40, 2**40))),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_costs_its_line(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file, harm = DAMAGE[damage]
    harm(write_run(tmp_path / "outputs/bad", {"name": "bad"}, steps=5) / file)
    write_run(tmp_path / "outputs/good", {"name": "good"}, steps=5)
    shown = lines(capsys)
    assert len(shown) == 3
    assert all(line.isprintable() for line in shown)
    assert len(listed(capsys)) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_costs_its_line(
    outputs: Path, capsys: pytest.CaptureFixture[str]
):
    (outputs / FIRST).chmod(0)
    try:
        assert [entry["state"] for entry in listed(capsys)] == ["unknown", "killed", "completed"]
    finally:
        (outputs / FIRST).chmod(0o755)


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(FILES), st.binary(max_size=80), min_size=1))
def test_a_folder_with_anything_in_it_is_read(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
):
    folder = tmp_path_factory.mktemp("any")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    entry = read_run(folder, stamp_of(folder))
    assert entry.state in STATES
    assert table([entry], unfold=True, width=80)


def test_a_sweep_with_a_damaged_index_still_has_its_jobs(
    outputs: Path, capsys: pytest.CaptureFixture[str]
):
    (outputs / SWEEP / "sweep.json").write_text("{")
    assert "2 jobs, 2 completed" in lines(capsys)[-1]


# --- The cache ----------------------------------------------------------------------------------


def test_what_did_not_change_is_not_read_again(outputs: Path):
    summary = outputs / FIRST / "summary.json"
    before, then = list_entries(outputs), summary.stat()
    summary.write_text(summary.read_text().replace('"steps": 40', '"steps": 41'))
    os.utime(summary, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert list_entries(outputs) == before
    os.utime(summary)
    changed = list_entries(outputs)[0]
    assert isinstance(changed, RunEntry)
    assert changed.steps == 41


@pytest.mark.parametrize("content", [b"", b"\xff", b"0\n{}", b'{"a": 1}\n'])
def test_a_damaged_cache_is_made_again(outputs: Path, content: bytes):
    before = list_entries(outputs)
    whole = cache_file(outputs).read_bytes()
    cache_file(outputs).write_bytes(content)
    assert list_entries(outputs) == before
    assert cache_file(outputs).read_bytes() == whole


def test_without_a_cache_folder_it_is_done_without(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = list_entries(outputs)
    (tmp_path / "file").touch()
    monkeypatch.setenv("LAB_CACHE_DIR", str(tmp_path / "file"))
    assert list_entries(outputs) == before


def test_listing_writes_nothing_among_the_runs(outputs: Path):
    before = sorted(outputs.rglob("*"))
    list_entries(outputs)
    assert sorted(outputs.rglob("*")) == before
