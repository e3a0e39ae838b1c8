"""A sweep while it runs, as its files tell: how far each job is, and how long the rest takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lab.compose.overrides import override_key, shown_value
from lab.config.keys import Config
from lab.config.schema import ConfigError
from lab.records.rows import decode, metric_gb, plausible
from lab.sweep.index import JOB_FILE, Job, SweepIndex, jobs_of, summary_of
from lab.sweep.job import failure
from lab.tracking.text import clean, short_names

INTERRUPTED = (130, 143)  # exit codes
TAIL_BYTES = 1 << 14  # of metrics.jsonl; a row takes less than one


@dataclass(frozen=True, kw_only=True)
class JobProgress:
    """How far one job is.

    Attributes:
        name: what is swept, with this job's values.
        state: ``waiting``, ``running``, or how it ended, as in the table of a sweep.
        step, steps: done, and how many there are to do; 0 where that is not known.
        seconds: that it took so far, by the run's clock.
        memory_gb: the figure that its policy watches; of one that has ended the process's peak.
        exit_code: of one that has ended.
    """

    number: int
    name: str
    state: str = "waiting"
    step: int = 0
    steps: int = 0
    seconds: float | None = None
    loss: float | None = None
    memory_gb: float | None = None
    exit_code: int | None = None

    @property
    def is_open(self) -> bool:
        return self.state in ("waiting", "running")

    @property
    def fraction(self) -> float:
        """Of its steps that are done, from 0 to 1."""
        return min(self.step / self.steps, 1.0) if self.steps else 0.0


class SweepLook:
    """Looks at a sweep that this command runs, without taking a lock that a job needs.

    Arguments:
        since: when the command began; what a job's file says from before is of an earlier one.
        trials: how many jobs there are where a sampler chooses them; None if nobody knows.
    """

    def __init__(self, folder: Path, *, since: float, trials: int | None = None) -> None:
        self.index = SweepIndex.read(folder)
        self._folder, self._since = folder, since
        self._trials = len(self.index.jobs) or trials or 0
        self._configs: dict[Path, Config] = {}

    def jobs(self) -> list[JobProgress]:
        """Every job, by number.

        Raises:
            OSError: a folder went away meanwhile.
        """
        begun = {job.number: (job, folder) for job, folder in jobs_of(self._folder)}
        count = max(self._trials, *(number + 1 for number in begun), 0)
        return [self._job(number, *begun.get(number, (None, None))) for number in range(count)]

    def _job(self, number: int, job: Job | None, folder: Path | None) -> JobProgress:
        jobs = self.index.jobs
        overrides = job.overrides if job else jobs[number] if number < len(jobs) else ()
        name = job_name(self.index.swept, overrides)
        if job is None or folder is None:
            return JobProgress(number=number, name=name)
        summary = summary_of(folder)
        is_ours = (folder / JOB_FILE).stat().st_mtime >= self._since
        if summary.get("state") != "completed" and not is_ours:
            return JobProgress(number=number, name=name)
        if job.exit_code is None and is_ours:
            return self._running(number, name, folder)
        code = job.exit_code or 0
        state = "refused" if code == 2 else "killed" if code < 0 else "failed"
        return JobProgress(
            number=number,
            name=name,
            state=str(summary.get("state", state)),
            step=1,
            steps=1,
            seconds=plausible((summary.get("seconds") or {}).get("total")),
            loss=plausible(summary.get("final_loss")),
            memory_gb=plausible(summary.get("peak_process_gb")),
            exit_code=code,
        )

    def failure(self, job: JobProgress) -> str:
        """How a job failed, on one line; empty for one that did not, or was interrupted."""
        if job.exit_code in (0, None, *INTERRUPTED):
            return ""
        folders = {known.number: folder for known, folder in jobs_of(self._folder)}
        return failure(job.number, job.exit_code, folders[job.number])

    def _running(self, number: int, name: str, folder: Path) -> JobProgress:
        config, row = self._config(folder), last_row(folder / "metrics.jsonl")
        step = row.get("step")
        return JobProgress(
            number=number,
            name=name,
            state="running",
            step=step if type(step) is int else 0,
            steps=config.train.steps if config else 0,
            seconds=plausible(row.get("time")),
            loss=plausible(row.get("loss")),
            memory_gb=metric_gb(row, config.reload.metric) if config else None,
        )

    def _config(self, folder: Path) -> Config | None:
        """A job's config, read once."""
        with suppress(ConfigError):
            if folder not in self._configs:
                self._configs[folder] = Config.load(folder / "config.yaml")
        return self._configs.get(folder)


def job_name(swept: Sequence[str], overrides: Sequence[str]) -> str:
    """The swept keys, by their last part, with a job's values."""
    values = {override_key(o): shown_value(o) for o in overrides}
    names = zip(short_names(swept), swept, strict=True)
    return clean(" ".join(f"{name}={values[key]}" for name, key in names if key in values))


def last_row(path: Path) -> dict[str, object]:
    """The last whole row of a file that grows; empty where there is none."""
    with suppress(OSError), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - TAIL_BYTES, 0))
        for line in reversed(file.read().splitlines(keepends=True)):
            if row := decode(line):
                return row
    return {}


def seconds_left(jobs: Sequence[JobProgress], side_by_side: int) -> float | None:
    """An estimate from what the jobs took so far; None before the first of them has a step.

    The rest of all jobs is shared by those that run at a time, and the last one ends with its own.
    """
    pace = {
        job.number: job.seconds / job.fraction
        for job in jobs
        if job.seconds and job.fraction and job.state in ("running", "completed")
    }
    if not pace:
        return None
    usual = sum(pace.values()) / len(pace)
    rest = [(1 - job.fraction) * pace.get(job.number, usual) for job in jobs if job.is_open]
    return max(sum(rest) / side_by_side, *rest, 0.0)
