"""Plan a sweep from its command line: its jobs, its index, how many run side by side."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from omegaconf import DictConfig, OmegaConf, open_dict

from lab.compose.check import hydras_files
from lab.compose.overrides import override_key, plain_overrides
from lab.config.keys import Config
from lab.config.schema import ConfigError
from lab.records.claim import LAB_FILES, check_free
from lab.sweep.index import RESUMED_SETTINGS, SWEEP_VERSION, SweepIndex, this_host
from lab.sweep.restore import saved_settings

TRIALS_AT_ONCE = 2  # where the launcher would start any number of jobs
OPTUNA_N_JOBS = 2  # as the plugin ships it: nobody chose it


def prefer_command_line(config: DictConfig) -> None:
    """Let a value of the command line replace what an experiment sweeps for the same key.

    Hydra's sweeper would take the product of the two lists instead.
    """
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    given = {o.get_key_element() for o in _parse(plain_overrides(config.hydra.overrides.task))}
    with open_dict(config):
        for key in given & {str(key) for key in params}:
            del config.hydra.sweeper.params[key]


def set_trials_at_once(config: DictConfig) -> None:
    """Let a sampler's trials run as many at a time as the launcher's jobs, unless the user says.

    Each trial is chosen knowing all that ended before it, so no more are begun than run at once.
    """
    key = "hydra.sweeper.n_jobs"
    if sweeps_a_grid(config) or OmegaConf.select(config, key) is None:
        return
    given = {override_key(o) for o in plain_overrides(config.hydra.overrides.hydra)}
    if key not in given and config.hydra.sweeper.n_jobs == OPTUNA_N_JOBS:
        config.hydra.sweeper.n_jobs = _at_once(config) or TRIALS_AT_ONCE
    if (_number(config, key) or 1) < 1:
        raise ConfigError(key, config.hydra.sweeper.n_jobs, "at least 1")


def plan_index(config: DictConfig) -> SweepIndex:
    """The index of the sweep that the command line asks for."""
    known = jobs(config)
    typed = plain_overrides(config.hydra.overrides.task)
    settings = plain_overrides(config.hydra.overrides.hydra)
    typed += [o for o in settings if override_key(o) in RESUMED_SETTINGS]
    resumable = not any("${" in override for job in (typed, *known) for override in job)
    return SweepIndex(
        version=SWEEP_VERSION,
        overrides=tuple(typed) if resumable else (),
        resumable=resumable,
        swept=tuple(swept_keys(config)),
        jobs=tuple(map(tuple, known)) if resumable and sweeps_a_grid(config) else (),
        side_by_side=side_by_side(config, len(known)),
        host=this_host(),
        **saved_settings(config),
    )


def check_jobs_unchanged(folder: Path, index: SweepIndex) -> None:
    """Check that a sweep which is resumed has the jobs that it was begun with.

    Raises:
        ConfigError: they were changed since, in the configs or on the command line.
    """
    if SweepIndex.read(folder).jobs != index.jobs:
        raise ConfigError("sweep", folder, "would have other jobs now than when it was begun")


def check_distinct(subfolders: Sequence[str], jobs: Sequence[Sequence[str]]) -> None:
    """Check that no job of a grid is another's, in what it runs or in its folder.

    Arguments:
        subfolders: of each job, relative to the sweep's.
        jobs: the overrides of each.

    Raises:
        ConfigError: two have the same.
    """
    for number, job in enumerate(jobs):
        if (first := jobs.index(job)) < number:
            said = f"job {first} and job {number} are the same; list each value once"
            raise ConfigError(" ".join(job), "", said)
    for number, name in enumerate(subfolders):
        if (first := subfolders.index(name)) < number:
            raise ConfigError(
                "hydra.sweep.subdir",
                name,
                f"is the folder of job {first} and of job {number}; each needs one of its own",
            )


def check_jobs_free(config: DictConfig, folder: Path, subfolders: Sequence[str]) -> None:
    """Check that no job's folder in that of a new sweep holds a file of this lab's names.

    Arguments:
        folder: the sweep's.
        subfolders: the jobs', relative to it.

    Raises:
        ConfigError: one does.
    """
    runs = {path.parent for path in folder.glob("*/config.yaml")}
    names = (*LAB_FILES, *hydras_files(config))
    for path in sorted(runs | {folder / name for name in subfolders}):
        check_free(path, names, key="hydra.sweep.dir")


def jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each job; for a sampler, of jobs at the bounds of its search space.

    Raises:
        ConfigError: a range is empty or cannot be sampled.
    """
    parsed = _parse(_all_overrides(config))
    if sweeps_a_grid(config):
        for override in filter(Override.is_interval_sweep, parsed):
            raise ConfigError(
                override.get_key_element(),
                override.get_value_string(),
                "is for hydra/sweeper=optuna; without it list the values, or use range()",
            )
        return [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]
    bounds = [_bounds(override) for override in parsed]
    first = [values[0] for values in bounds]
    others = [
        [*first[:at], value, *first[at + 1 :]]
        for at, values in enumerate(bounds)
        for value in values[1:]
    ]
    return [first, *others]


def sweeps_a_grid(config: DictConfig) -> bool:
    """Whether all jobs are known beforehand: with Hydra's basic sweeper."""
    return config.hydra.sweeper._target_.endswith("BasicSweeper")


def launches_here(config: DictConfig) -> bool:
    """Whether jobs are launched by this process, one after the other."""
    return config.hydra.launcher._target_.endswith("BasicLauncher")


def swept_keys(config: DictConfig) -> list[str]:
    """The keys that differ between jobs."""
    return [o.get_key_element() for o in _parse(_all_overrides(config)) if o.is_sweep_override()]


def side_by_side(config: DictConfig, jobs: int) -> int:
    """How many jobs share this machine at a time.

    Arguments:
        jobs: how many there are to launch.
    """
    if not sweeps_a_grid(config):
        jobs = int(_number(config, "hydra.sweeper.n_jobs") or 1)
    if config.hydra.launcher._target_.endswith("SlurmLauncher"):
        return 1  # each has a machine, or its share of one, by SLURM
    gpus = _number(config, "hydra.launcher.ray.remote.num_gpus")
    at_once = int(1 / gpus) if gpus else _at_once(config) or jobs
    return max(1, min(at_once, jobs))


def _at_once(config: DictConfig) -> int | None:
    """How many jobs the launcher runs at a time; None where it starts all at once."""
    match config.hydra.launcher._target_.rpartition(".")[2]:
        case "JoblibLauncher":
            from joblib import effective_n_jobs

            return effective_n_jobs(int(_number(config, "hydra.launcher.n_jobs") or 1))
        case "RayLauncher":
            cpus = _number(config, "hydra.launcher.ray.init.num_cpus") or os.cpu_count() or 1
            return max(1, int(cpus / (_number(config, "hydra.launcher.ray.remote.num_cpus") or 1)))
        case "LocalLauncher" | "SlurmLauncher":
            return None
        case _:
            return 1


def _number(config: DictConfig, key: str) -> float | None:
    """A plugin's numeric setting; None where it is not set."""
    value = OmegaConf.select(config, key)
    if value is None or (isinstance(value, int | float) and value and abs(value) < math.inf):
        return value
    raise ConfigError(key, value, "must be a number, and not 0")


def _all_overrides(config: DictConfig) -> list[str]:
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    lines = [f"{key}={value}" for key, value in params.items()]
    return [*lines, *plain_overrides(config.hydra.overrides.task)]


def _parse(overrides: Sequence[str]) -> list[Override]:
    loader = GlobalHydra.instance().config_loader()  # for glob(*) over the options of a group
    return OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))


def _bounds(override: Override) -> list[str]:
    """An override with each choice that a sampler has, or with the ends of its range.

    Raises:
        ConfigError: the range is empty, or holds no value that the key takes.
    """
    key, value = override.get_key_element(), cast("Any", override.value())
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if isinstance(value, Glob):
        raise ConfigError(key, override.get_value_string(), "must list its values: choice(...)")
    if override.is_choice_sweep():
        return [f"{key}={choice}" for choice in override.sweep_string_iterator()]
    is_range = override.is_range_sweep()
    low, high = value.start, value.stop if is_range else value.end
    said = override.get_value_string()
    if low > high or (is_range and value.step <= 0):
        raise ConfigError(key, said, "must go up, from the smaller number to the larger")
    if "log" in value.tags and low <= 0:
        raise ConfigError(key, said, "must begin above 0, to be searched by its logarithm")
    if isinstance(low, float) and _is_whole(override.key_or_group):
        raise ConfigError(key, said, f"must be whole numbers: {key}=int({said})")
    return [f"{key}={low}", f"{key}={high}"]


def _is_whole(key: str) -> bool:
    """Whether a key of a run's config takes whole numbers only."""
    hint: Any = Config
    for name in key.split("."):
        hint = get_type_hints(hint).get(name) if is_dataclass(hint) else None
    return hint is int
