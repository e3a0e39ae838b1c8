"""``python -m benchmarks.remedies``: a small real sweep becomes a table in a copy of the page."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.remedies import BEGIN, END, PAGE, ROOT

SMALL = (
    *("fault=none,trainer_list", "reload=none,interval", "train.steps=16"),
    "reload.interval_steps=8",
)


def remedies(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.remedies", *map(str, words)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_without_a_folder_it_runs_the_sweep_and_a_second_time_changes_nothing(
    tmp_path: Path,
) -> None:
    page = tmp_path / "explaining.md"
    shutil.copy(PAGE, page)
    done = remedies(*SMALL, "--page", page, "--into", tmp_path / "sweep", cwd=tmp_path)
    assert done.returncode in (0, 1), done.stderr  # 1: sixteen steps may explain nothing
    written = page.read_text()
    section = written[written.index(BEGIN) : written.index(END)]
    assert "4 runs of 16 steps" in section
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == ["none", "trainer_list"] * 2
    *_, last = [line for line in section.splitlines() if line.startswith("| `trainer_list`")]
    assert last.count("|") == 10  # nine cells
    assert written.replace(section, "") == _without_section(PAGE.read_text())

    again = remedies(tmp_path / "sweep", "--page", page, cwd=tmp_path)
    assert again.returncode == done.returncode
    assert page.read_text() == written
    assert again.stdout == section.removeprefix(f"{BEGIN}\n")


def test_a_folder_without_runs_is_one_line_and_leaves_the_page(tmp_path: Path) -> None:
    page = tmp_path / "explaining.md"
    shutil.copy(PAGE, page)
    done = remedies(tmp_path / "nothing", "--page", page, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert page.read_text() == PAGE.read_text()


def _without_section(page: str) -> str:
    return page[: page.index(BEGIN)] + page[page.index(END) :]
