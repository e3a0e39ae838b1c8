"""Run or resume one experiment: a composed config in, a folder of files and an exit code out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.config.keys import Config, dump
from lab.config.schema import ConfigError
from lab.records.claim import NewFolder, reserve
from lab.records.files import MetricsLost, RunBusy, read_summary
from lab.records.origin import MUST_MATCH, Origin
from lab.supervise.replay import Remedies
from lab.supervise.restart import restart_command
from lab.supervise.run_supervisor import RunSupervisor
from lab.supervise.verdict import Result
from lab.tracking.closing import resume_command

log = logging.getLogger("lab")


def run(
    config: Config,
    run_dir: Path,
    *,
    overrides: list[str],
    warnings: list[str],
    group: str | None = None,
    begun_with: Mapping[str, Any] | None = None,
    remedies: Remedies | None = None,
    claimed: NewFolder | None = None,
    reproduces: str | None = None,
) -> Result:
    """Run one experiment in ``run_dir``.

    Arguments:
        run_dir: a new folder, or one that holds no file of a run; Hydra's own may be there.
        overrides: what the user changed, for the tracker.
        warnings: found while composing, one line each.
        group: the sweep that this run is a job of.
        begun_with: the environment of the run that this one reproduces.
        remedies: those that it took, to be taken again.
        claimed: ``run_dir``, where the caller has claimed it with this config.
        reproduces: the folder of the run that this one reproduces.

    Returns:
        The exit code; a user's mistake or a full disk is logged, not raised.
    """
    try:
        folder = claimed or reserve(run_dir).begin_run(dump(config))
    except ConfigError as error:
        log.error("%s", error)  # noqa: TRY400 - a user's mistake has no traceback
        return Result(2)
    except OSError as error:
        log.error("cannot write to %s: %s", run_dir, error.strerror)  # noqa: TRY400
        return Result(1)
    for warning in warnings:
        log.warning("%s", warning)
    origin = Origin.new(run_dir / "config.yaml", group, reproduces)
    try:
        return _supervise(config, run_dir, origin, overrides, begun_with, remedies)
    except ConfigError as error:
        log.error("%s", error)  # noqa: TRY400 - a user's mistake has no traceback
        if group is None and not isinstance(error, RunBusy):
            folder.give_back()  # a sweep's job keeps its log, which says why
        return Result(2)


def resume(run_dir: Path) -> Result:
    """Continue a run that was cut off, from its last good checkpoint.

    Raises:
        ConfigError: the folder holds no run, or was edited since; the run is complete, or another
            process has it.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise ConfigError("run", run_dir, "is not a run's folder: it holds no config.yaml")
    config = Config.load(path)
    if read_summary(run_dir).get("state") == "completed":
        raise ConfigError("run", run_dir, "is complete; there is nothing to resume")
    try:
        return _supervise(config, run_dir, Origin.of(run_dir), [])
    except ConfigError as error:
        if error.key != MUST_MATCH["data_fingerprint"]:
            raise
        way_out = f"{error.allowed}; to go on from its weights: {restart_command(run_dir)}"
        raise ConfigError(error.key, error.value, way_out) from error


def _supervise(
    config: Config,
    run_dir: Path,
    origin: Origin,
    overrides: list[str],
    begun_with: Mapping[str, Any] | None = None,
    remedies: Remedies | None = None,
) -> Result:
    try:
        return RunSupervisor(
            config,
            run_dir,
            origin,
            overrides=overrides,
            begun_with=begun_with,
            remedies=remedies,
        ).run()
    except MetricsLost as error:
        remedy = f"make room, then: {resume_command(run_dir)}"
        log.error("%s: the run stops rather than lose rows; %s", error, remedy)  # noqa: TRY400
        return Result(1)
