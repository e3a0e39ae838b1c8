"""Begin or resume a sweep: check every job, write the index, acquire the lease."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from lab.compose.check import check_jobs, claim_folder
from lab.machine import process
from lab.machine.interpreter import environment_with_lab
from lab.records.claim import NewFolder
from lab.sweep import plan
from lab.sweep.index import INDEX_FILE, SweepIndex
from lab.sweep.lease import SweepLease
from lab.sweep.local_ray import set_init_defaults


def begin_sweep(config: DictConfig, *, resuming: bool) -> SweepLease:
    """Check a sweep and acquire the lease on its folder, which holds an index from then on.

    Arguments:
        config: the composed config; its ``hydra`` node is completed in place.
        resuming: the sweep was begun by an earlier command, and its index is there.

    Raises:
        ConfigError, SweepError: a job is impossible, the folder is taken or cannot be written, or
            the sweep runs in another process.
    """
    folder = Path(config.hydra.sweep.dir)
    index, subfolders = _checked(config, resuming=resuming)
    if not resuming:
        new = _claimed(config, subfolders)
        new.create(INDEX_FILE, index.text())
        folder = new.path
    os.environ.update(environment_with_lab())  # inherited by a launcher's own processes
    process.keep_awake()  # also between two jobs
    return SweepLease(folder)


def check_sweep(config: DictConfig) -> list[str]:
    """Check a new sweep as :func:`begin_sweep` does, and leave nothing.

    Returns:
        What would be run, a line for each job, and where.

    Raises:
        ConfigError, SweepError: as :func:`begin_sweep`.
    """
    index, subfolders = _checked(config, resuming=False)
    new = _claimed(config, subfolders)
    new.create(INDEX_FILE, index.text())
    new.give_back()
    chosen = "" if plan.sweeps_a_grid(config) else " at the bounds of what is sampled"
    lines = [f"checked {len(subfolders)} jobs{chosen}; nothing was run"]
    for number, job in enumerate(plan.jobs(config)):
        lines.append(f"  {f'job {number}':<8} {' '.join(job)}")
    return [*lines, f"  {'folder':<8} {new.path}, {index.side_by_side} at a time"]


def _checked(config: DictConfig, *, resuming: bool) -> tuple[SweepIndex, list[str]]:
    """The index of a sweep, and the folder of each job relative to the sweep's."""
    plan.prefer_command_line(config)
    set_init_defaults(config)
    plan.set_trials_at_once(config)
    index, cwd = plan.plan_index(config), Path.cwd()
    if resuming:
        folder = Path(config.hydra.sweep.dir)
        plan.check_jobs_unchanged(folder, index)
        cwd = SweepIndex.read(folder).begun_in(folder)
    jobs = plan.jobs(config)
    subfolders = check_jobs(config, jobs, side_by_side=index.side_by_side, cwd=cwd)
    if plan.sweeps_a_grid(config) and not resuming:
        plan.check_distinct(subfolders, jobs)
    return index, subfolders


def _claimed(config: DictConfig, subfolders: Sequence[str]) -> NewFolder:
    new = claim_folder(config, "sweep")
    plan.check_jobs_free(config, new.path, subfolders)
    return new
