"""Begin or resume a sweep: check every job, write the index, acquire the lease."""

from __future__ import annotations

import os
from pathlib import Path

from omegaconf import DictConfig

from lab.compose.check import check_jobs, claim_folder
from lab.machine import process
from lab.machine.interpreter import environment_with_lab
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
        OSError: the disk has no room.
    """
    folder = Path(config.hydra.sweep.dir)
    plan.prefer_command_line(config)
    set_init_defaults(config)
    plan.set_trials_at_once(config)
    index, cwd = plan.plan_index(config), Path.cwd()
    if resuming:
        plan.check_jobs_unchanged(folder, index)
        cwd = SweepIndex.read(folder).begun_in(folder)
    subfolders = check_jobs(config, plan.jobs(config), side_by_side=index.side_by_side, cwd=cwd)
    if not resuming:
        if plan.sweeps_a_grid(config):
            plan.check_distinct(subfolders)
        new = claim_folder(config, "sweep")
        plan.check_jobs_free(config, new.path, subfolders)
        new.create(INDEX_FILE, index.text())
        folder = new.path
    os.environ.update(environment_with_lab())  # inherited by a launcher's own processes
    process.keep_awake()  # also between two jobs
    return SweepLease(folder)
