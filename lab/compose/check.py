"""Check what a command line asks for before anything is run or written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from typing import Literal

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lab.compose.config import compose_config
from lab.compose.errors import USER_ERRORS, SweepError, explain
from lab.compose.flags import as_sweep
from lab.compose.overrides import override_key, quoted
from lab.compose.tracker import check_wandb
from lab.config.schema import ConfigError
from lab.records.claim import LAB_FILES, NewFolder, reserve


def check_single(config: DictConfig, words: Sequence[str]) -> None:
    """Check that nothing asks for a sweep where a single run is asked for.

    Arguments:
        words: of the command line.

    Raises:
        ConfigError: a launcher, a sweeper, or an experiment that sweeps over values; with the
            command that was meant.
    """
    node = config.hydra
    given = {override_key(word) for word in words}
    swept = OmegaConf.to_container(node.sweeper, resolve=False).get("params") or {}  # type: ignore[union-attr]
    open_keys = [k for k in swept if k not in given and str(k).partition(".")[0] not in given]
    chosen = OmegaConf.to_container(node.runtime.choices)
    assert isinstance(chosen, dict)
    for group in ("hydra/launcher", "hydra/sweeper"):
        if group in given and chosen[group] != "basic":
            raise ConfigError(group, chosen[group], f"is for a sweep: {as_sweep(words)}")
    if open_keys:
        key, name = ("experiment", chosen.get("experiment"))
        what = f"sweeps over {open_keys[0]}"
        raise ConfigError(key, name, f"{what}: {as_sweep(words)}")


def claim_folder(config: DictConfig, kind: Literal["run", "sweep"]) -> NewFolder:
    """Reserve the folder of a new run or sweep, which Hydra makes its files in later.

    One that is named by the clock is new: of two begun in the same second the other one's gets a
    number. ``config`` then says which, for this job and those of a sweep.

    Raises:
        ConfigError: the folder holds a file of this lab's names, or cannot be made.
    """
    node, key = config.hydra[kind], f"hydra.{kind}.dir"
    by_clock = "${now:" in str(OmegaConf.to_container(node, resolve=False)["dir"])  # type: ignore[index]
    names = (*LAB_FILES, *hydras_files(config))
    folder = reserve(Path(node.dir), key=key, names=names, is_new=by_clock)
    if folder.path.name != Path(node.dir).name:
        with read_write(config.hydra):
            node.dir = str(folder.path)
            config.hydra.overrides.hydra.append(f"{key}={quoted(folder.path)}")
    return folder


def hydras_files(config: DictConfig) -> list[str]:
    """Names of the files that Hydra itself writes into the folder of a run or a job."""
    subfolder, log = config.hydra.output_subdir, f"{config.hydra.job.name}.log"
    saved = ("config.yaml", "hydra.yaml", "overrides.yaml")
    return [log, *(f"{subfolder}/{name}" for name in saved if subfolder is not None)]


def check_jobs(
    config: DictConfig, jobs: Sequence[list[str]], *, side_by_side: int, cwd: Path
) -> list[str]:
    """Compose and check every job of a sweep.

    Arguments:
        config: the sweep's, with its ``hydra`` node.
        jobs: the overrides of each.
        side_by_side: how many jobs share the machine at a time.
        cwd: what relative paths in them are relative to.

    Returns:
        The folder of each, relative to the sweep's.

    Raises:
        SweepError: a job is impossible; the text names it.
    """
    group = Path(config.hydra.sweep.dir).name
    loader = GlobalHydra.instance().config_loader()
    folders = []
    for number, overrides in enumerate(jobs):
        try:
            job = loader.load_sweep_config(config, overrides)
            with chdir(cwd):
                composed, _ = compose_config(job, overrides, side_by_side=side_by_side)
            check_wandb(composed, os.environ, group=group)
            folders.append(_subfolder(job, number))
        except USER_ERRORS as error:
            _, line = explain(error, overrides)
            raise SweepError(f"job {number} ({' '.join(overrides)}): {line}") from error
    return folders


def _subfolder(job: DictConfig, number: int) -> str:
    """The folder of a job, relative to the sweep's; as Hydra resolves it once the job begins."""
    with open_dict(job.hydra.job):
        job.hydra.job.num = job.hydra.job.id = number
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(job)  # for ${hydra:...}
    try:
        folder = os.path.normpath(str(job.hydra.sweep.subdir))
    finally:
        HydraConfig.instance().cfg = before
    if Path(folder).is_absolute() or ".." in Path(folder).parts:
        raise ConfigError("hydra.sweep.subdir", folder, "must be a folder inside the sweep's")
    return folder
