"""Hydra's settings of a resumed sweep: used again as data, and never where they could do harm."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lab.config.keys import Config
from lab.config.schema import ConfigError
from lab.sweep.index import Job, SweepIndex
from lab.sweep.restore import restored
from tests.composing import ROOT
from tests.runs import QUICK
from tests.sweep.test_sweep import new_sweep, resumed, sweep

OLD = {
    "version": 1,
    "overrides": ["seed=1,2"],
    "resumable": True,
    "swept": ["seed"],
    "jobs": [["seed=1"], ["seed=2"]],
    "side_by_side": 1,
    "host": "here",
}


def index(folder: Path, **fields: object) -> SweepIndex:
    (folder / "sweep.json").write_text(json.dumps(OLD | fields))
    return SweepIndex.read(folder)


def test_an_index_from_before_they_were_kept_sets_nothing(tmp_path: Path) -> None:
    old = index(tmp_path)
    assert restored(old, tmp_path, []) == []
    assert old.checked_overrides(tmp_path) == ["seed=1,2"]


def test_what_was_kept_is_set_again_and_gives_way_to_what_is_typed(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    kept = index(
        tmp_path,
        subdir="seed{seed}/{hydra.job.num}",
        config_name="mine",
        config_dir="conf",
        searchpath=["conf", "../" + tmp_path.name],
    )
    assert restored(kept, tmp_path, []) == [
        "--config-name=mine",
        f"--config-dir={tmp_path}/conf",
        "hydra.sweep.subdir='seed${seed}/${hydra.job.num}'",
        f"hydra.searchpath=['{tmp_path}/conf','{tmp_path}']",
    ]
    typed = ["--config-name=a", "-cd=b", "hydra.sweep.subdir=c", "hydra.searchpath=[d]"]
    assert restored(kept, tmp_path, typed) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"subdir": "{oc.env:HOME}"},
        {"subdir": "{now:%H}"},
        {"subdir": "a'b"},
        {"subdir": "{a.{b}}"},
        {"config_name": "../other"},
        {"config_name": "a --config-dir=b"},
        {"config_dir": "pkg://os"},
        {"config_dir": "not/there"},
        {"searchpath": ["pkg://somebodys.module"]},
        {"searchpath": ["structured://"]},
    ],
)
def test_what_could_do_harm_must_be_typed(tmp_path: Path, fields: dict) -> None:
    with pytest.raises(ConfigError, match="type it again: lab resume SWEEP"):
        restored(index(tmp_path, **fields), tmp_path, [])


HARMLESS = "# @package _global_\ndefaults: [{override /reload: none}, _self_]\nname: a${seed}\n"


@pytest.mark.parametrize(
    ("name", "text", "harm"),
    [
        ("a/b.yaml", HARMLESS, ""),
        ("a/notes.txt", "hydra _target_", ""),
        ("a/b.yaml", "a: {_target_: os.system}", "_target_"),
        ("a/b.yaml", 'a: {"\\x5ftarget_": os.system}', "_target_"),
        ("a/b.yaml", "hydra: {callbacks: {x: 1}}", "Hydra"),
        ("a/b.yaml", '"\\x68ydra": 1', "Hydra"),
        ("a/b.yaml", "# @package hydra.callbacks\nx: 1", "Hydra"),
        ("a/b.yaml", "defaults: [{override /hydra/launcher: x}]", "Hydra"),
        ("hydra/launcher/x.yaml", "a: 1", "Hydra"),
        ("a/b.yaml", "a: ${oc.env:HOME}", "interpolation"),
        ("a/b.yaml", "a: ${a.${oc.env:HOME}}", "interpolation"),
        ("a/b.yaml", "defaults: [../../elsewhere/x]", "../../elsewhere/x"),
        ("a/b.yaml", "defaults: [{model: //tmp/x}]", "//tmp/x"),
        ("a/b.yaml", "a: !!python/object/apply:os.getcwd []", "no plain YAML"),
        ("a/b.yaml", "[" * 3000, "no plain YAML"),
    ],
)
def test_a_folder_of_configs_holds_plain_values_only(
    tmp_path: Path, name: str, text: str, harm: str
) -> None:
    file = tmp_path / "conf" / name
    file.parent.mkdir(parents=True)
    file.write_text(text)
    kept = index(tmp_path, config_dir="conf")
    if not harm:
        assert restored(kept, tmp_path, []) == [f"--config-dir={tmp_path}/conf"]
        return
    with pytest.raises(ConfigError) as caught:
        restored(kept, tmp_path, [])
    assert f"{name} " in str(caught.value)
    assert harm in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_whole_disk_is_no_folder_of_configs(tmp_path: Path) -> None:
    for number in range(1001):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(ConfigError, match="holds more than 1000 files"):
        restored(index(tmp_path, config_dir="."), tmp_path, [])


@pytest.mark.parametrize("override", ["mine=../../elsewhere/x", "name=../x"])
def test_no_option_lies_outside_its_folder(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="is not taken from a file"):
        index(tmp_path, overrides=[override]).checked_overrides(tmp_path)


# --- As typed -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep whose second job is missing, begun with settings of Hydra's own."""
    cwd = tmp_path_factory.mktemp("halfway")
    for folder, seed in (("dir", 7), ("path", 8)):
        (cwd / folder / "experiment").mkdir(parents=True)
        text = f"# @package _global_\nseed: {seed}\n"
        (cwd / folder / "experiment" / f"{folder}.yaml").write_text(text)
    rows = (json.dumps({"text": f"line {number}"}) + "\n" for number in range(40))
    (cwd / "train.jsonl").write_text("".join(rows))
    done = new_sweep(
        cwd,
        *("hydra.searchpath=[path]", "experiment=dir,path", "train.steps=1"),
        *("data=jsonl", "data.path=train.jsonl"),
        *("hydra.sweep.subdir=seed${seed}", "hydra.job.chdir=true", "--config-dir=dir"),
    )
    assert done.exit_code == 0, done.said
    shutil.rmtree(cwd / "sweep" / "seed8")
    return cwd


def seeds(cwd: Path) -> list[str]:
    return sorted(path.parent.name for path in (cwd / "sweep").glob("*/summary.json"))


def test_relative_paths_hold_in_every_job(halfway: Path) -> None:
    assert sorted(path.name for path in halfway.iterdir()) == [
        "dir", "path", "sweep", "train.jsonl"
    ]  # fmt: skip


def test_a_sweep_goes_on_in_its_own_folders_with_its_own_configs(
    halfway: Path, tmp_path: Path
) -> None:
    kept = json.loads((halfway / "sweep" / "sweep.json").read_text())
    assert (kept["subdir"], kept["config_dir"]) == ("seed{seed}", "../dir")
    assert kept["searchpath"] == ["../path"]
    assert "hydra.job.chdir=true" in kept["overrides"]
    shutil.copytree(halfway, tmp_path / "moved")
    complete = (tmp_path / "moved/sweep/seed7/summary.json").stat().st_mtime_ns
    command = ("-m", "lab.cli", "resume", "moved/sweep")
    done = sweep(tmp_path, command=command)
    assert done.exit_code == 0, done.said
    assert seeds(tmp_path / "moved") == ["seed7", "seed8"]
    assert (tmp_path / "moved/sweep/seed7/summary.json").stat().st_mtime_ns == complete
    assert sorted(p.name for p in (tmp_path / "moved/sweep").iterdir() if p.is_dir()) == [
        "seed7",
        "seed8",
    ]


def test_configs_that_are_not_there_any_more_are_typed(halfway: Path, tmp_path: Path) -> None:
    shutil.copytree(halfway, tmp_path, dirs_exist_ok=True)
    (tmp_path / "dir").rename(tmp_path / "elsewhere")
    before = sorted(tmp_path.rglob("*"))
    done = resumed(tmp_path)
    assert done.exit_code == 2
    assert done.said.count("\n") == 1
    assert "dir: is not there any more; type it again: lab resume SWEEP --config-dir=" in done.said
    assert sorted(tmp_path.rglob("*")) == before
    done = resumed(tmp_path, "--config-dir=elsewhere")
    assert done.exit_code == 0, done.said
    assert seeds(tmp_path) == ["seed7", "seed8"]


# --- Folders that a sweep cannot have -----------------------------------------------------------


@pytest.mark.parametrize(
    ("subdir", "says"),
    [
        ("x", "hydra.sweep.subdir=x: is the folder of job 0 and of job 1"),
        ("../${seed}", "must be a folder inside the sweep's"),
        ("/tmp/${seed}", "must be a folder inside the sweep's"),
    ],
)
def test_jobs_have_folders_of_their_own_in_the_sweeps(
    tmp_path: Path, subdir: str, says: str
) -> None:
    done = new_sweep(tmp_path, "seed=1,2", f"hydra.sweep.subdir={subdir}")
    assert (done.exit_code, done.said.count("\n")) == (2, 1)
    assert says in done.said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["multirun.yaml", "seed2/metrics.jsonl", "seed2/train.log"])
def test_somebodys_files_in_a_sweeps_folder_stay(tmp_path: Path, name: str) -> None:
    file = tmp_path / "sweep" / name
    file.parent.mkdir(parents=True)
    file.write_text("somebody's")
    done = new_sweep(tmp_path, "seed=1,2", "hydra.sweep.subdir=seed${seed}")
    assert (done.exit_code, done.said.count("\n")) == (2, 1)
    assert f"already holds {file.name}" in done.said
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [file]
    assert file.read_text() == "somebody's"


def test_sweeps_of_one_second_and_name_get_folders_of_their_own(tmp_path: Path) -> None:
    """The year stands for the second."""
    asked = (*QUICK, "train.steps=1", "seed=1", "hydra.sweep.dir=sweeps/${now:%Y}_a")
    command = [sys.executable, str(ROOT / "train.py"), "-m", *asked]
    processes = [subprocess.Popen(command, cwd=tmp_path) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    made = sorted((tmp_path / "sweeps").iterdir())
    assert [folder.name.partition("_")[2] for folder in made] == ["a", "a-2"]
    for folder in made:
        ended = Job.read(folder / "0")
        assert ended is not None
        assert ended.exit_code == 0


def test_relative_paths_of_jobs_not_begun_are_those_of_the_sweeps_command(tmp_path: Path) -> None:
    first, other = tmp_path / "first", tmp_path / "other"
    for cwd, text in ((first, "as begun"), (other, "of another")):
        cwd.mkdir()
        rows = (json.dumps({"text": f"{text} {number}"}) + "\n" for number in range(40))
        (cwd / "train.jsonl").write_text("".join(rows))
    (tmp_path / "disk").mkdir()
    (first / "outputs").symlink_to(tmp_path / "disk")
    data = ("data=jsonl", "data.path=train.jsonl", "hydra.sweep.dir=outputs/sweep")
    done = new_sweep(first, "train.steps=1", "seed=1,2", *data)
    assert done.exit_code == 0, done.said
    shutil.rmtree(tmp_path / "disk/sweep/1")
    done = sweep(other, "../first/outputs/sweep", command=("-m", "lab.cli", "resume"))
    assert done.exit_code == 0, done.said
    jobs = [Config.load(tmp_path / f"disk/sweep/{n}/config.yaml") for n in (0, 1)]
    assert [job.data.path for job in jobs] == [str(first / "train.jsonl")] * 2
    assert "resume" not in done.said
    assert f"lab compare {tmp_path}/disk/sweep" in done.said


def test_a_sweep_whose_first_folder_is_gone_is_resumed_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep").mkdir()
    assert index(tmp_path / "sweep").begun_in(tmp_path / "sweep") == tmp_path
    assert index(tmp_path / "sweep", cwd="../gone").begun_in(tmp_path / "sweep") == tmp_path
    (tmp_path / "gone").mkdir()
    moved = index(tmp_path / "sweep", cwd="../gone")
    assert moved.begun_in(tmp_path / "sweep") == tmp_path / "gone"


def test_an_index_that_reaches_outside_the_sweep_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    made = replace(index(tmp_path / "sweep"), subdir="../{seed}")
    (tmp_path / "sweep" / "sweep.json").write_text(made.text())
    done = resumed(tmp_path)
    assert (done.exit_code, done.said.count("\n")) == (2, 1)
    assert "must be a folder inside the sweep's" in done.said
    assert [path.name for path in tmp_path.rglob("*")] == ["sweep", "sweep.json"]
