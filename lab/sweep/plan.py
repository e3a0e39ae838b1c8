"""What a sweep will run, from its command line, before any of it starts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict

from lab.compose import override_key, plain_overrides
from lab.schema import ConfigError
from lab.sweep.index import RESUMED_SETTINGS, VERSION, Index, this_host


def prefer_command_line(config: DictConfig) -> None:
    """Let a value of the command line replace what an experiment sweeps of the same key.

    Hydra's sweeper would multiply the two lists instead.
    """
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    given = {o.get_key_element() for o in _parse(plain_overrides(config.hydra.overrides.task))}
    with open_dict(config):
        for key in given & {str(key) for key in params}:
            del config.hydra.sweeper.params[key]


def settle_sampler(config: DictConfig) -> None:
    """What a sweeper that chooses values needs here, unless the user said otherwise.

    A seed, so that an interrupted sweep asks for the same trials again; trials one at a time where
    the launcher runs one at a time, so that each is chosen knowing all before it; and a trial that
    fails is the sampler's business, not the end of the sweep.
    """
    if sweeps_a_grid(config):
        return
    sweeper = config.hydra.sweeper
    given = {override_key(o) for o in plain_overrides(config.hydra.overrides.hydra)}
    basic = config.hydra.launcher._target_.endswith("BasicLauncher")
    settled = {"sampler.seed": 0, "max_failure_rate": 1.0} | ({"n_jobs": 1} if basic else {})
    for key, value in settled.items():
        known = OmegaConf.select(sweeper, key, throw_on_missing=False, default=MISSING) != MISSING
        if known and f"hydra.sweeper.{key}" not in given:
            OmegaConf.update(sweeper, key, value)


def index_of(config: DictConfig) -> Index:
    """What ``sweep.json`` says of this sweep."""
    known = jobs(config)
    typed = plain_overrides(config.hydra.overrides.task)
    settings = plain_overrides(config.hydra.overrides.hydra)
    typed += [o for o in settings if override_key(o) in RESUMED_SETTINGS]
    resumable = not any("${" in override for job in (typed, *known) for override in job)
    return Index(
        version=VERSION,
        overrides=tuple(typed) if resumable else (),
        resumable=resumable,
        swept=tuple(swept_keys(config)),
        jobs=tuple(map(tuple, known)) if resumable and sweeps_a_grid(config) else (),
        side_by_side=side_by_side(config, len(known)),
        host=this_host(),
    )


def check_same(folder: Path, index: Index) -> None:
    """Make sure that a sweep which goes on has the jobs that it was begun with.

    Raises:
        ConfigError: what it sweeps was changed since, in the configs or on the command line.
    """
    if Index.read(folder).jobs != index.jobs:
        raise ConfigError("sweep", folder, "would have other jobs now than when it was begun")


def jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each job; of a sweeper that chooses them, one job of first values."""
    parsed = _parse(_all_overrides(config))
    if sweeps_a_grid(config):
        return [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]
    return [[_first_value(override) for override in parsed]]


def sweeps_a_grid(config: DictConfig) -> bool:
    """Whether all jobs are known beforehand, as they are with Hydra's own sweeper."""
    return config.hydra.sweeper._target_.endswith("BasicSweeper")


def swept_keys(config: DictConfig) -> list[str]:
    """The keys that differ between jobs."""
    return [o.get_key_element() for o in _parse(_all_overrides(config)) if o.is_sweep_override()]


def side_by_side(config: DictConfig, jobs: int) -> int:
    """How many jobs the launcher runs at a time on this machine, which they share.

    Arguments:
        jobs: how many there are to launch.
    """
    if not sweeps_a_grid(config):
        jobs = int(OmegaConf.select(config, "hydra.sweeper.n_jobs") or 1)
    launcher, cores = config.hydra.launcher, os.cpu_count() or 1
    match launcher._target_.rpartition(".")[2]:
        case "JoblibLauncher":
            workers = int(launcher.n_jobs)
            at_once = workers if workers > 0 else max(1, cores + 1 + workers)
        case "RayLauncher":
            cpus = OmegaConf.select(launcher, "ray.init.num_cpus") or cores
            at_once = int(cpus // (OmegaConf.select(launcher, "ray.remote.num_cpus") or 1))
        case "LocalLauncher":
            at_once = jobs  # submitit's local executor starts all of them
        case _:
            at_once = 1  # one after another, or each on a machine of its own
    return max(1, min(at_once, jobs))


def _all_overrides(config: DictConfig) -> list[str]:
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    lines = [f"{key}={value}" for key, value in params.items()]
    return [*lines, *plain_overrides(config.hydra.overrides.task)]


def _parse(overrides: Sequence[str]) -> list[Any]:
    return OverridesParser.create().parse_overrides(list(overrides))


def _first_value(override: Any) -> str:
    key = override.get_key_element()
    if not override.is_sweep_override():
        return f"{key}={override.get_value_element_as_str()}"
    if override.is_discrete_sweep():
        return f"{key}={next(iter(override.sweep_string_iterator()))}"
    return f"{key}={override.value().start}"
