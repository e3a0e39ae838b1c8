"""One job of a sweep in a launcher's process: start it, resume it or skip it; its objective."""

from __future__ import annotations

import logging
import os
import signal
from contextlib import chdir
from pathlib import Path

from omegaconf import DictConfig

from lab.compose.config import compose_config
from lab.compose.errors import USER_ERRORS, explain
from lab.compose.overrides import override_key
from lab.sweep.index import Job, SweepIndex, jobs_of, summary_of, this_host
from lab.sweep.job import JobSpec, failure, run_in_subprocess
from lab.sweep.lease import is_leased
from lab.sweep.quiet import is_quiet, leave_the_terminal
from lab.sweep.scores import job_objective

log = logging.getLogger("lab")

PARENT = os.getppid()
CUT_OFF = (None, 130, 143)  # exit codes of a job that was interrupted: resume it


def run_job(
    cfg: DictConfig, overrides: list[str], *, number: int, folder: Path, sweep: Path
) -> float | None:
    """Start a job, resume one that was cut off, or skip one that is complete.

    Returns:
        The objective that a sweeper minimizes; None where the job did not complete.

    Raises:
        SystemExit: this process got a signal, which is meant for the whole sweep.
    """
    job = Job(number=number, overrides=tuple(overrides))
    leave_the_terminal()
    try:
        return _run_job(cfg, job, folder, sweep)
    except USER_ERRORS as error:
        _, line = explain(error, overrides)
        log.error("job %d: %s", number, line)  # noqa: TRY400 - a user's mistake has no traceback
        job.ended(2).write(folder)
    except Exception:
        log.exception("job %d failed", number)
        job.ended(1).write(folder)
    finally:
        if os.getppid() != PARENT and not is_leased(sweep):
            os._exit(1)  # orphaned: joblib's processes would otherwise wait for minutes
    return None


def _run_job(cfg: DictConfig, job: Job, folder: Path, sweep: Path) -> float | None:
    index, known = SweepIndex.read(sweep), Job.read(folder)
    if known is not None and known.overrides != job.overrides:
        log.error(
            "job %d is not begun: its folder holds %s; a sampler without a fixed seed chooses "
            "other values each time",
            job.number,
            " ".join(known.overrides),
        )
        return None
    if summary_of(folder).get("state") == "completed":
        log.info("job %d is complete already", job.number)
        return job_objective(folder)
    if known is not None and not index.jobs and known.exit_code not in CUT_OFF:
        log.error("job %d failed, and the sampler has chosen others knowing that", job.number)
        return None
    named_by = [o for o in job.overrides if override_key(o) in index.swept] or job.overrides
    with chdir(index.begun_in(sweep)):
        config, warnings = compose_config(
            cfg, list(job.overrides), named_by=named_by, side_by_side=index.side_by_side
        )
    if config.sweep.on_failure == "stop" and _has_failed(sweep, besides=job.number):
        log.error(
            "job %d is not begun: another failed, and sweep.on_failure=stop says so", job.number
        )
        return None
    if index.host == this_host() and not is_leased(sweep):
        return None  # the sweep was ended while this job waited for its turn
    job.write(folder)
    if (folder / "config.yaml").exists():
        spec = JobSpec.resume(folder, sweep)
    else:
        spec = JobSpec.begin(config, folder, sweep, list(job.overrides), warnings)
    prefix = f"[{job.number}] " if index.side_by_side > 1 and not is_quiet() else ""
    exit_code, signalled = run_in_subprocess(spec, prefix=prefix, quiet=is_quiet())
    job.ended(exit_code).write(folder)
    if said := failure(job.number, exit_code, folder):
        log.error("%s", said)
    if signalled is not None:
        raise SystemExit(130 if signalled == signal.SIGINT else 143)
    return job_objective(folder) if exit_code == 0 else None


def _has_failed(sweep: Path, *, besides: int) -> bool:
    return any(job.exit_code for job, _ in jobs_of(sweep) if job.number != besides)
