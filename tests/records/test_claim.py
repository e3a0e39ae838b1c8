"""Folders of new runs: one process has each, and takes nothing with it that it did not make."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab.config.schema import ConfigError
from lab.records.claim import LAB_FILES, NewFolder, reserve


def contents(folder: Path) -> dict[str, bytes | None]:
    paths = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in paths}


@pytest.mark.parametrize("name", LAB_FILES)
def test_a_folder_that_holds_a_name_of_the_labs_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"somebody's")
    with pytest.raises(ConfigError, match=f"^run={tmp_path}: already holds .*; choose another"):
        reserve(tmp_path, names=LAB_FILES)
    assert contents(tmp_path) == {name: b"somebody's"}


def test_a_link_that_leads_nowhere_is_a_name_too(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"already holds metrics\.jsonl"):
        reserve(tmp_path)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "events.jsonl"])
def test_a_file_that_came_after_the_check_stays_as_it_is(tmp_path: Path, name: str) -> None:
    folder = reserve(tmp_path / "run")
    (tmp_path / "run" / name).write_text("somebody's")
    with pytest.raises(ConfigError, match="already holds"):
        folder.begin_run("config")
    assert contents(tmp_path / "run") == {name: b"somebody's"}


def test_only_what_was_made_is_given_back(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    for path in ("mine", "new/day/run", "mine/below"):
        folder = reserve(tmp_path / path).begin_run("x", later=("train.log", ".hydra/hydra.yaml"))
        (folder.path / ".hydra").mkdir()
        for name in ("train.log", ".hydra/hydra.yaml"):
            (folder.path / name).write_text("made later")
        folder.give_back()
        assert contents(tmp_path) == before


def test_an_empty_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    reserve(tmp_path / "runs" / "mine").begin_run("x").give_back()
    assert (tmp_path / "runs" / "mine").is_dir()


def test_what_somebody_put_beside_it_stays(tmp_path: Path) -> None:
    folder = reserve(tmp_path / "run").begin_run("x", later=(".hydra/hydra.yaml",))
    (folder.path / ".hydra").mkdir()
    (folder.path / ".hydra" / "theirs").write_text("theirs")
    folder.give_back()
    assert contents(tmp_path / "run") == {".hydra": None, ".hydra/theirs": b"theirs"}


def test_all_that_ask_at_once_get_folders_of_their_own(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        paths = [tmp_path / "day" / "12-00-00_a"] * 16
        made = list(pool.map(lambda path: reserve(path, is_new=True).path.name, paths))
    assert sorted(made) == sorted(["12-00-00_a", *(f"12-00-00_a-{n}" for n in range(2, 17))])


def test_of_all_that_want_one_folder_one_has_it(tmp_path: Path) -> None:
    def begin(text: str) -> NewFolder | str:
        try:
            return reserve(tmp_path / "run").begin_run(text)
        except ConfigError as error:
            return str(error)

    with ThreadPoolExecutor(16) as pool:
        ends = list(pool.map(begin, [f"config {n}" for n in range(16)]))
    [winner] = [number for number, end in enumerate(ends) if isinstance(end, NewFolder)]
    assert contents(tmp_path / "run") == {
        "config.yaml": f"config {winner}".encode(),
        "events.jsonl": b"",
        "metrics.jsonl": b"",
    }


@pytest.mark.parametrize("path", ["file", "file/run", "x" * 300])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("a file")
    for is_new in (False, True):
        if is_new and path == "file":
            continue  # its name is taken: the next one is free
        with pytest.raises(
            ConfigError, match=r"(is a file|cannot be written: .*); choose another folder"
        ):
            reserve(tmp_path / path, is_new=is_new)
    assert contents(tmp_path) == {"file": b"a file"}
