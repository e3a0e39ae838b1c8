"""What may be typed where a command wants a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.catalog.names import chosen, folder_of, is_resumable, is_run, newest
from lab.cli import main
from lab.config.schema import ConfigError
from tests.catalog.conftest import CUT, FIRST, SWEEP
from tests.compared import write_run


@pytest.mark.parametrize(
    ("word", "folder"),
    [
        (f"outputs/{FIRST}", FIRST),
        (f"outputs/{FIRST}/config.yaml", FIRST),
        ("23-24-03_first", FIRST),
        ("23-24", FIRST),
        ("fir", FIRST),
        ("cut", CUT),
        ("09-00", SWEEP),
        ("interv", SWEEP),
        ("interv/1", f"{SWEEP}/1"),
        ("00-10-00_cut/", CUT),
    ],
)
def test_a_path_or_how_a_name_begins_is_a_folder(outputs: Path, word: str, folder: str):
    assert folder_of(word) == Path("outputs", folder)


def test_a_name_in_full_is_taken_though_another_begins_with_it(outputs: Path):
    write_run(outputs / "runs/2026-11-25/10-00-00_first2", {"name": "first2"}, steps=3)
    assert folder_of("first") == Path("outputs", FIRST)


def test_a_sweep_is_meant_where_its_jobs_have_its_name(outputs: Path):
    write_run(outputs / SWEEP / "2", {"name": "intervals"}, steps=3)
    assert folder_of("intervals") == Path("outputs", SWEEP)


def test_part_of_a_name_that_is_not_its_begin_is_not_enough(outputs: Path):
    with pytest.raises(ConfigError, match="no name in outputs begins so; near: intervals"):
        folder_of("ntervals")


def test_an_ambiguous_word_lists_five_at_most_the_newest_first(outputs: Path):
    for n in range(7):
        write_run(outputs / f"runs/2026-11-25/10-00-0{n}_same", {"name": "same"}, steps=1)
    with pytest.raises(ConfigError) as refused:
        folder_of("same")
    [line] = str(refused.value).splitlines()
    assert line.startswith("folder=same: so begin 7 names: outputs/runs/2026-11-25/10-00-06_same, ")
    assert line.endswith("10-00-02_same and 2 more")
    assert line.count("_same") == 5


@pytest.mark.parametrize("word", ["nothing", "", "/nowhere", "a\0b", "x" * 5000, "first/9", "-"])
def test_an_unknown_word_is_one_line_with_what_there_is(outputs: Path, word: str):
    with pytest.raises(ConfigError) as refused:
        folder_of(word)
    assert "there is no such folder" in refused.value.allowed
    assert "`lab ls` shows 3, the last 23-24-03_first, 00-10-00_cut, 09-00" in refused.value.allowed


def test_without_any_run_nothing_is_near():
    with pytest.raises(ConfigError, match=r"^folder=first: there is no such folder$"):
        folder_of("first")
    with pytest.raises(ConfigError, match=r"^--last: no run or sweep is in outputs$"):
        chosen(None, last=True)


def test_the_last_is_that_of_ls_and_for_resume_one_that_can_go_on(outputs: Path):
    assert chosen(None, last=True) == Path("outputs", SWEEP)
    assert chosen(None, last=True, may=is_resumable) == Path("outputs", CUT)
    assert chosen(None, last=True, may=is_run) == Path("outputs", CUT)
    assert newest(2) == [Path("outputs", CUT), Path("outputs", SWEEP)]
    (outputs / SWEEP / "1" / "summary.json").unlink()
    assert chosen(None, last=True, may=is_resumable) == Path("outputs", SWEEP)


@pytest.mark.parametrize(("word", "last"), [(None, False), ("first", True)])
def test_one_folder_is_asked_for(outputs: Path, word: str | None, last: bool):
    with pytest.raises(ConfigError):
        chosen(word, last=last)


# --- In the commands ----------------------------------------------------------------------------


def test_every_command_takes_a_name_and_says_what_it_took(
    outputs: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["explain", "fir", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["version"] == 1
    assert told.err == f"outputs/{FIRST}\n"


def test_the_last_runs_are_compared(outputs: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["compare", "--last", "2", "--csv"]) == 0
    assert Path("outputs/compare/compare.csv").read_text().count("\n") == 1 + 1 + 2


def test_settings_may_follow_the_last(outputs: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["whatif", "--last", "memory.budget=1"]) == 2
    assert "memory.budget" in capsys.readouterr().err
    assert main(["resume", "--last", "hydra.launcher.n_jobs=2"]) == 2
    assert "a run is resumed as it was begun" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["generate", "a", "prompt"], ["evaluate"], ["fuse", "out"], ["explain", "--measure"]]
)
def test_what_takes_one_run_takes_the_newest_though_a_sweep_is_newer(
    outputs: Path, capsys: pytest.CaptureFixture[str], words: list[str]
):
    (outputs / CUT / "config.yaml").write_text("rubbish: [")
    assert main([*words, "--last"]) == 2
    assert capsys.readouterr().err.startswith(f"outputs/{CUT}\n")


def test_a_sweep_is_drawn_run_by_run(outputs: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["plot", "--last"]) == 0
    assert all((outputs / SWEEP / job / "memory.png").is_file() for job in "01")


@pytest.mark.parametrize("name", ["explain", "plot", "reproduce", "resume", "whatif"])
def test_a_command_without_a_folder_says_what_it_wants(
    name: str, capsys: pytest.CaptureFixture[str]
):
    assert main([name]) == 2
    told = "folder: is missing: give it, how its name begins, or --last\n"
    assert capsys.readouterr().err == told


def test_none_of_the_newest_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--last", "0"]) == 2
    assert capsys.readouterr().err == "--last=0: must be at least 1\n"
