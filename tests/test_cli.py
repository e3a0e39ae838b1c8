"""``lab``: the words that are typed, before any command does anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent


def test_each_file_of_commands_is_listed():
    files = {path.stem for path in (ROOT / "lab/commands").glob("*.py")} - {"__init__"}
    assert files == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_what_it_takes(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert f"usage: lab {name}" in told
    assert COMMANDS[name] in " ".join(told.split())


def test_no_command_at_all_lists_them(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert all(f"  {name} " in told for name in COMMANDS)


@pytest.mark.parametrize(("typed", "meant"), [("comapre", "compare"), ("explian", "explain")])
def test_a_command_that_is_misspelt_names_the_one_that_is_meant(
    typed: str, meant: str, capsys: pytest.CaptureFixture[str]
):
    assert main([typed, "outputs"]) == 2
    line = f"lab: there is no command '{typed}', did you mean {meant}?\n"
    assert capsys.readouterr().err == line


def test_an_option_may_stand_between_a_commands_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(["whatif", "nowhere", "--json", "reload=interval"]) == 2
    assert capsys.readouterr().err == "folder=nowhere: there is no such folder\n"


def test_only_the_command_that_is_typed_is_imported():
    looked = "import sys; from lab.cli import main; main(['plot', 'nowhere']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", looked], capture_output=True, text=True, cwd=ROOT, check=True
    )
    loaded = {name for name in done.stdout.split() if name.startswith("lab.commands.")}
    assert loaded == {"lab.commands.plot"}
