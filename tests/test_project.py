"""The repository itself: the locks, the Makefile, and what must not be in the tree."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

LOCKS = ("default", "cuda")
HASH = r"--hash=sha256:[0-9a-f]{64}"
REQUIREMENT = rf"(?P<name>[a-z0-9-]+)==(?P<version>[0-9][\w.]*)(?: ; [^\\]+)?(?: \\\n    {HASH})+"
MACHINE_PATH = re.compile(r"(?<![\w./}~-])/(?:home|root|Users|work|private|mnt|opt)/[\w.-]+")


def tracked(repo: Path) -> list[Path]:
    """The files that git holds or would take up."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True, cwd=repo, capture_output=True, text=True,
    )  # fmt: skip
    return [path for name in listed.stdout.split("\0") if (path := repo / name).is_file()]


def pins(repo: Path, lock: str) -> dict[str, str]:
    text = (repo / "requirements" / f"{lock}.txt").read_text()
    return {found["name"]: found["version"] for found in re.finditer(REQUIREMENT, text)}


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_is_hashes_and_pins_only(repo: Path, lock: str) -> None:
    text = (repo / "requirements" / f"{lock}.txt").read_text()
    rest = re.sub(rf"(?m)^{REQUIREMENT}$", "", text)
    assert [line for line in rest.splitlines() if line and not line.lstrip().startswith("#")] == []
    assert "://" not in text
    assert len(pins(repo, lock)) > 50


@pytest.mark.parametrize(("lock", "extra"), [("default", "cpu"), ("cuda", "cuda")])
def test_lock_holds_what_pyproject_asks_for(repo: Path, lock: str, extra: str) -> None:
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    [own] = (text for text in extras["dev"] if text.startswith(project["name"]))
    named = [extra, "dev", *re.findall(r"\w+", own.partition("[")[2])]
    locked = pins(repo, lock)
    for wanted in project["dependencies"] + [text for name in named for text in extras[name]]:
        if wanted == own:
            continue
        name, _, version = re.sub(r"\[.*?\]", "", wanted).partition("==")
        name = re.split("[<>=]", name)[0]
        assert name in locked, f"{wanted}: run `make lock`"
        assert not version or locked[name] == version, f"{wanted}: run `make lock`"


def test_locks_agree_and_hold_one_backend_each(repo: Path) -> None:
    default, cuda = (pins(repo, lock) for lock in LOCKS)
    assert {name: default[name] for name in default.keys() & cuda.keys()}.items() <= cuda.items()
    assert "mlx-cpu" in default.keys() - cuda.keys()
    assert "mlx-cuda-13" in cuda.keys() - default.keys()
    assert "torch" not in default.keys() | cuda.keys()


def test_tree_names_no_path_of_a_machine(repo: Path) -> None:
    found = [
        f"{path.relative_to(repo)}: {match[0]}"
        for path in tracked(repo)
        for match in MACHINE_PATH.finditer(path.read_text(errors="replace"))
    ]
    assert found == []


def test_on_macos_nothing_in_the_environment_stays_hidden(repo: Path, tmp_path: Path) -> None:
    """The recipe alone, where ``uname`` says Darwin: Python skips a hidden ``.pth`` file."""
    for name, text in {"uname": "echo Darwin", "chflags": 'echo "chflags $@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    asked = ["make", "-n", "setup", f"VENV={tmp_path}/venv"]
    recipe = subprocess.run(
        asked, check=True, cwd=repo, capture_output=True, text=True, env=os.environ | {"PATH": path}
    ).stdout
    [line] = [line for line in recipe.splitlines() if "chflags" in line]
    said = subprocess.run(
        ["sh", "-c", line], check=True, capture_output=True, text=True, env={"PATH": path}
    )
    assert said.stdout == f"chflags -R nohidden {tmp_path}/venv\n"
    assert recipe.index("-e .") < recipe.index("chflags") < recipe.index("touch")


def test_the_workflow_covers_what_is_promised(repo: Path) -> None:
    """It cannot be run here: what it names exists, and every system and Python is in it."""
    text = (repo / ".github" / "workflows" / "tests.yml").read_text()
    [job] = yaml.safe_load(text)["jobs"].values()
    assert "could not be run" in text
    assert job["strategy"]["matrix"] == {
        "system": ["ubuntu-24.04", "macos-14", "macos-15", "macos-26"],
        "python": ["3.11", "3.14"],
    }
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["make train", 'make test ARGS="-m gpu -n 0"', "make test"]


def test_make_help_lists_every_target(repo: Path) -> None:
    listed = subprocess.run(["make", "help"], check=True, cwd=repo, capture_output=True, text=True)
    named = set(re.findall(r"^  make ([a-z]+)", listed.stdout, re.MULTILINE))
    assert named == {
        "help",
        "setup",
        "train",
        "test",
        "lint",
        "bench",
        "soak",
        "pretrained",
        "lock",
        "clean",
    }
