"""``lab clean``: what can go, and above all what stays."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.cli import main
from lab.records.files import RunFiles
from tests.compared import write_run
from tests.runs import start

OLD = 1.5e9


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run with checkpoints of steps 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    start(folder, "checkpoint.interval_steps=2", "checkpoint.keep=5", "reload=none")
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return Path(shutil.copytree(trained, tmp_path / "outputs/runs/run")).relative_to(tmp_path)


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def told(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["clean", *words]) == code
    return capsys.readouterr().out


def test_it_is_only_told_until_yes_and_the_last_checkpoint_stays(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    before = sorted(run.rglob("*"))
    said = told(capsys)
    assert f"{run}/checkpoints/step_2\n" in said
    assert f"{run}/checkpoints/step_4\n" in said
    assert "step_6" not in said
    assert "`lab clean --yes` frees it" in said
    assert sorted(run.rglob("*")) == before
    told(capsys, "--yes")
    assert checkpoints(run) == ["step_6"]
    gone = {"step_2", "step_4"}
    assert sorted(run.rglob("*")) == [path for path in before if not gone & {*path.parts}]
    assert told(capsys, str(run)) == "nothing to free\n"


def test_a_last_checkpoint_that_is_not_whole_is_no_reason_to_remove_the_one_before(
    run: Path, capsys: pytest.CaptureFixture[str]
):
    (run / "checkpoints/step_6/state.json").unlink()
    told(capsys, "--yes")
    assert checkpoints(run) == ["step_4", "step_6"]


def _cut_off(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"state": "interrupted"}))


def _not_begun_by_the_lab(run: Path) -> None:
    (run / "events.jsonl").write_text('{"a": 1}\n')


def _with_a_note(run: Path) -> None:
    for step in (2, 4):
        (run / f"checkpoints/step_{step}/mine.txt").write_text("keep me")


def _linked(run: Path) -> None:
    (run / "checkpoints").rename("elsewhere")
    (run / "checkpoints").symlink_to(Path("elsewhere").absolute())


def _linked_steps(run: Path) -> None:
    for step in (2, 4):
        folder = run / f"checkpoints/step_{step}"
        folder.rename(f"step_{step}")
        folder.symlink_to(Path(f"step_{step}").absolute())


def _without_manifests(run: Path) -> None:
    for path in run.glob("checkpoints/*/manifest.json"):
        path.write_text("{}")


@pytest.mark.parametrize(
    "change",
    [_cut_off, _not_begun_by_the_lab, _with_a_note, _linked, _linked_steps, _without_manifests],
)
def test_what_may_be_needed_or_is_not_the_labs_stays(
    run: Path, change: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
):
    change(run)
    told(capsys, "--yes")
    assert checkpoints(run) == ["step_2", "step_4", "step_6"]
    assert all(len(list(path.iterdir())) >= 4 for path in (run / "checkpoints").iterdir())


def test_a_run_that_goes_on_is_left_alone(run: Path, capsys: pytest.CaptureFixture[str]):
    _cut_off(run)
    half = run / "checkpoints/.step_7.0123456789ab.tmp"
    half.mkdir()
    writer = RunFiles(run)
    try:
        told(capsys, "--yes")
        assert half.is_dir()
    finally:
        writer.close()
    told(capsys, "--yes")
    assert not half.exists()


def test_what_killed_commands_left_half_written_goes(run: Path, capsys: pytest.CaptureFixture[str]):
    half, new, foreign = (run / f".new-abcdefg{n}" for n in range(3))
    for folder, name in ((half, "whatif.png"), (new, "whatif.png"), (foreign, "a.txt")):
        folder.mkdir()
        (folder / name).write_text("half")
    for folder in (half, foreign):
        os.utime(folder, (OLD, OLD))
    told(capsys, "--yes")
    assert [folder.exists() for folder in (half, new, foreign)] == [False, True, True]


def test_an_old_copy_that_was_measured_in_goes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name in ("lab-explain-old", "lab-explain-now", "lab-explain-not"):
        shutil.copytree(run, tmp_path / name / "copy")
    (tmp_path / "lab-explain-not/mine.txt").touch()
    for name in ("lab-explain-old", "lab-explain-not"):
        os.utime(tmp_path / name / "copy", (OLD, OLD))
    told(capsys, "--yes")
    left = sorted(path.name for path in tmp_path.glob("lab-explain-*"))
    assert left == ["lab-explain-not", "lab-explain-now"]


def test_the_caches_of_ls_go_and_only_where_no_folder_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_run(tmp_path / "outputs/run", {}, steps=1)
    assert told(capsys, "outputs", "--yes") == "nothing to free\n"
    assert (tmp_path / "cache/ls").is_dir()
    assert str(tmp_path / "cache/ls") in told(capsys, "--yes")
    assert not (tmp_path / "cache/ls").exists()
