"""Which lab a run was made with, told where it can be known, and at no run's cost."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lab.supervise.identity import git_commit


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_the_labs_own_clone_only(tmp_path: Path) -> None:
    (tmp_path / "lib" / "lab").mkdir(parents=True)
    git(tmp_path, "init")
    assert git_commit(tmp_path) is None  # nothing was committed yet
    git(tmp_path, "commit", "--allow-empty", "-m", "first")
    assert git_commit(tmp_path) == git(tmp_path, "rev-parse", "HEAD")
    assert git_commit(tmp_path / "lib") is None  # a user's repository that holds an installed lab


def test_without_git_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "first")
    monkeypatch.setenv("PATH", "")
    assert git_commit(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path / "missing"))
    assert git_commit(tmp_path) is None
