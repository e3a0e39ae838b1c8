"""Check what a command line asks for before anything is run or written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from lab.compose.config import compose_config
from lab.compose.errors import USER_ERRORS, SweepError, explain
from lab.compose.overrides import plain_overrides
from lab.compose.tracker import check_wandb
from lab.config.schema import ConfigError


def check_run(config: DictConfig) -> None:
    """Check a single run: its config, and that its folder holds no run yet.

    Raises:
        ConfigError, OmegaConfBaseException: a value is impossible, or the folder is taken.
    """
    composed, _ = compose_config(config, plain_overrides(config.hydra.overrides.task))
    check_wandb(composed, os.environ)
    check_folder("hydra.run.dir", config.hydra.run.dir, "config.yaml")


def check_folder(key: str, folder: str, *files: str) -> None:
    """Check that an output folder holds none of these files, given as glob patterns.

    Raises:
        ConfigError: it does; ``key`` is the setting that names another folder.
    """
    for pattern in files:
        if next(Path(folder).glob(pattern), None) is not None:
            what = "a sweep" if pattern == "sweep.json" else "a run"
            raise ConfigError(key, folder, f"already holds {what}; choose another folder")


def check_jobs(config: DictConfig, jobs: Sequence[list[str]], side_by_side: int) -> None:
    """Compose and check every job of a sweep.

    Arguments:
        config: the sweep's, with its ``hydra`` node.
        jobs: the overrides of each.
        side_by_side: how many jobs share the machine at a time.

    Raises:
        SweepError: a job is impossible; the text names it.
    """
    group = Path(config.hydra.sweep.dir).name
    loader = GlobalHydra.instance().config_loader()
    for number, overrides in enumerate(jobs):
        try:
            job = loader.load_sweep_config(config, overrides)
            composed, _ = compose_config(job, overrides, side_by_side=side_by_side)
            check_wandb(composed, os.environ, group=group)
        except USER_ERRORS as error:
            _, line = explain(error, overrides)
            raise SweepError(f"job {number} ({' '.join(overrides)}): {line}") from error
