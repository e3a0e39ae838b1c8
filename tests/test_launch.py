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
        (["--check", "train.steps=0"], "train.steps=0: must be at least 1 steps"),
    ],
)
def test_a_bad_command_line_leaves_nothing(tmp_path: Path, arguments: list[str], line: str) -> None:
    done = train(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line + "\n")
    assert list(tmp_path.iterdir()) == []


def test_check_says_what_a_run_would_be_and_leaves_nothing(tmp_path: Path) -> None:
    done = train("train.steps=7", "--check", "hydra.run.dir=new/run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[1:])
    assert list(told) == [
        *("model", "data", "adapter", "train", "reload", "budget", "tracker", "folder"),
    ]
    assert told["train"].startswith("7 steps of 8 x 1 sequences")
    assert told["folder"] == str(tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []


def test_check_of_a_sweep_names_each_job_and_leaves_nothing(tmp_path: Path) -> None:
    done = train("--check", "-m", "seed=1,2", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    first, *jobs, folder = done.stdout.splitlines()
    assert first == "checked 2 jobs; nothing was run"
    assert [line.split() for line in jobs] == [["job", str(n), f"seed={n + 1}"] for n in (0, 1)]
    assert str(tmp_path / "outputs" / "sweeps") in folder
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("")
    done = train("hydra.run.dir=run", cwd=tmp_path)
    assert done.returncode == 2
    assert "hydra.run.dir=run: already holds a run" in done.stderr


QUICK = (
    *("tracker=none", "train.steps=1", "train.batch_size=2"),
    *("train.val_interval_steps=0", "reload=none"),
)


@pytest.mark.parametrize("name", ["metrics.jsonl", "train.log", ".hydra/config.yaml"])
def test_a_folder_with_somebodys_file_of_such_a_name_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "run" / name
    file.parent.mkdir(parents=True)
    file.write_text("somebody's")
    done = train(*QUICK, "hydra.run.dir=run", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"hydra.run.dir=run: already holds {name}, where")
    assert done.stderr.count("\n") == 1
    assert [p.read_text() for p in tmp_path.rglob("*") if p.is_file()] == ["somebody's"]


def test_a_run_that_its_worker_refuses_takes_only_its_own_with_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "data.jsonl").write_text('{"text": 3}\n')
    before = sorted(tmp_path.rglob("*"))
    for folder in ("empty", "mine", "new/day/run"):
        asked = (*QUICK, "data=jsonl", "data.path=mine/data.jsonl", f"hydra.run.dir={folder}")
        done = train(*asked, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert "line 1" in done.stdout
        assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_hydra_cannot_write_into_is_given_back(tmp_path: Path) -> None:
    done = train(*QUICK, "hydra.run.dir=run", "hydra.output_subdir=config.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "run/config.yaml: is a file; choose another folder" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_runs_of_one_second_and_name_get_folders_of_their_own(tmp_path: Path) -> None:
    """The year stands for the second."""
    command = [sys.executable, str(ROOT / "train.py"), *QUICK, "hydra.run.dir=runs/${now:%Y}_a"]
    processes = [subprocess.Popen(command, cwd=tmp_path) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    made = sorted(folder.name.partition("_")[2] for folder in (tmp_path / "runs").iterdir())
    assert made == ["a", "a-2"]
    for folder in (tmp_path / "runs").iterdir():
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
        assert (folder / ".hydra" / "overrides.yaml").is_file()


def test_paths_are_from_where_the_command_is_given_whatever_hydra_changes_to(
    tmp_path: Path,
) -> None:
    rows = (f'{{"text": "line {number}"}}\n' for number in range(40))
    (tmp_path / "train.jsonl").write_text("".join(rows))
    data = (*QUICK, "data=jsonl", "data.path=train.jsonl")
    asked = (*data, "hydra.run.dir=run", "hydra.job.chdir=true", "tracker=wandb_offline")
    done = train(*asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs", "run", "train.jsonl"]
    assert f"path: {tmp_path}/train.jsonl" in (tmp_path / "run" / "config.yaml").read_text()


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


@pytest.mark.parametrize(
    "words",
    [
        [str(ROOT / "train.py"), "--help"],
        [str(ROOT / "train.py"), "--check", "-m", "seed=1,2"],
        ["-m", "lab.cli", "schema"],
    ],
)
def test_a_reader_of_a_pipe_that_leaves_is_no_error(tmp_path: Path, words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
    assert list(tmp_path.iterdir()) == []
