"""The command line, for real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.composing import ROOT


def train(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=cwd,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["train.steps=0"], "train.steps=0: must be at least 1 steps"),
        (["train.stepz=1"], "train.stepz=1: is not a key; did you mean train.steps?"),
        (
            ["seed=3", "-m", "train.steps=5,0"],
            "job 1 (seed=3 train.steps=0): train.steps=0: must be at least 1 steps",
        ),
    ],
)
def test_a_bad_command_line_leaves_nothing(tmp_path: Path, arguments: list[str], line: str) -> None:
    done = train(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line + "\n")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    done = train("hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 2
    assert "hydra.run.dir=run: already holds a run" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "shows"),
    [
        (["--help"], "stress_10000"),
        (["--hydra-help"], "Hydra"),
        (["--cfg", "job", "--resolve"], "steps: 400"),
        (["--info", "defaults"], "hardware/"),
        (["-sc", "query=bash"], "model=tiny"),
    ],
)
def test_hydras_own_commands_work(tmp_path: Path, arguments: list[str], shows: str) -> None:
    line = "python train.py model=ti"
    done = train(*arguments, cwd=tmp_path, COMP_LINE=line, COMP_POINT=str(len(line)))
    assert done.returncode == 0, done.stderr
    assert shows in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_each_module_imports() -> None:
    code = (
        "import sys; import {module}; "
        "print(*sorted({{n.partition('.')[0] for n in sys.modules}} & {{{names}}}))"
    )
    for module, names in {
        "lab.config.keys": "'omegaconf', 'hydra', 'mlx', 'wandb'",
        "lab.machine.probe": "'omegaconf', 'hydra', 'mlx', 'wandb', 'yaml', 'psutil'",
        "lab.launch": "'mlx', 'wandb', 'rich', 'matplotlib', 'numpy', 'psutil'",
    }.items():
        done = subprocess.run(
            [sys.executable, "-c", code.format(module=module, names=names)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "", module
