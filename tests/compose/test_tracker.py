"""What W&B's server would refuse is refused before a run, with the remedy and nothing left."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from wandb import Settings
from wandb.errors import UsageError

from lab.compose.tracker import NOT_IN_A_PROJECT, check_tracker
from lab.config.keys import Tracker
from lab.config.schema import ConfigError

GOOD = Tracker(mode="offline", project="p" * 128, entity="e", tags=("x", "y" * 64, "ü z"))


def test_good_values_are_good_to_wandb_too() -> None:
    check_tracker(GOOD, {"WANDB_NAME": "n" * 128})
    Settings(project=GOOD.project, run_tags=GOOD.tags)


@pytest.mark.parametrize("project", ["p" * 129, *(f"a{letter}b" for letter in NOT_IN_A_PROJECT)])
def test_a_bad_project_is_refused_as_wandb_does(project: str) -> None:
    with pytest.raises(ConfigError, match=r"^tracker\.project="):
        check_tracker(replace(GOOD, project=project), {})
    with pytest.raises(ConfigError, match=r"^tracker\.project="):
        check_tracker(replace(GOOD, project=None), {"WANDB_PROJECT": project})
    check_tracker(replace(GOOD, project=project, mode="none"), {})
    with pytest.raises(UsageError):
        Settings(project=project)


@pytest.mark.parametrize("tag", ["", "x" * 65])
def test_a_bad_tag_is_refused_as_wandb_does(tag: str) -> None:
    with pytest.raises(ConfigError, match="1 to 64 characters, one has"):
        check_tracker(replace(GOOD, tags=("good", tag)), {})
    with pytest.raises(ValueError, match="between 1 and 64"):
        Settings(run_tags=("good", tag))


@pytest.mark.parametrize("name", ["WANDB_NAME", "WANDB_RUN_GROUP"])
def test_a_long_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}=n+\.\.\.: must have at most 128 characters"):
        check_tracker(GOOD, {name: "n" * 129})


# --- On the command line ------------------------------------------------------------------------

ONLINE = "tracker=wandb_online"
REFUSED = {
    "tag": (["tracker.tags=[" + "x" * 65 + "]"], {}, "tracker.tags="),
    "empty tag": (['tracker.tags=[""]'], {}, "tracker.tags="),
    "team": (["tracker.project=team/project"], {}, "a team goes into tracker.entity"),
    "no key": ([ONLINE], {}, "tracker.mode=online: needs an API key: set WANDB_API_KEY"),
    "folder": ([], {"WANDB_DIR": "file/wandb"}, "WANDB_DIR=file/wandb: cannot be written"),
    "a job": (["-m", "tracker.project=a,b:c", "hydra.sweep.dir=out"], {}, "tracker.project=b:c"),
    "a sweep's key": (["-m", ONLINE, "seed=1,2", "hydra.sweep.dir=out"], {}, "needs an API key"),
    "a sweep's name": (["-m", "seed=1,2", f"hydra.sweep.dir={'s' * 129}"], {}, "WANDB_RUN_GROUP"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_before_training(repo: Path, tmp_path: Path, what: str) -> None:
    overrides, variables, message = REFUSED[what]
    (tmp_path / "file").touch()
    home = tmp_path.with_name(f"{tmp_path.name}-home")
    home.mkdir()
    environment = os.environ | {"HOME": str(home), "NETRC": str(home / "netrc"), **variables}
    done = subprocess.run(
        [sys.executable, str(repo / "train.py"), "train.steps=6", "hydra.run.dir=out", *overrides],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
