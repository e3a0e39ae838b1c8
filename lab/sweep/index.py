"""A sweep's folder: its index, who leads it, and what became of each job.

``sweep.json`` is written once, before the first job. Each job's folder has a ``job.json``, and what
any run has.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from lab.config.schema import ConfigError, from_dict
from lab.records.files import RunBusy, check_idle, read_summary

VERSION = 1
INDEX, JOB = "sweep.json", "job.json"
BEGIN_SECONDS = 10.0  # a job may take so long until its files are open
# Of Hydra's own settings only these go into the index and are used again on resuming: an index may
# be somebody else's, and others can name code, or hold a command.
RESUMED_SETTINGS = (
    *("hydra/launcher", "hydra/sweeper", "hydra/sweeper/sampler"),
    *("hydra.sweeper.direction", "hydra.sweeper.n_jobs", "hydra.sweeper.n_trials"),
    *("hydra.sweeper.sampler.seed", "hydra.launcher.n_jobs", "hydra.launcher.timeout_min"),
    *("hydra.launcher.cpus_per_task", "hydra.launcher.gpus_per_node", "hydra.launcher.mem_gb"),
    *("hydra.launcher.partition", "hydra.launcher.account", "hydra.launcher.qos"),
    *("hydra.launcher.ray.init.num_cpus", "hydra.launcher.ray.remote.num_cpus"),
    "hydra.launcher.ray.remote.num_gpus",
)


@dataclass(frozen=True, kw_only=True)
class Index:
    """What was asked for.

    Attributes:
        overrides: as typed, to ask for the same again.
        resumable: whether ``overrides`` and ``jobs`` are whole; one that holds an interpolation
            is left out, which could read the environment of whoever resumes.
        swept: keys that differ between jobs.
        jobs: the overrides of each job; empty where the sweeper chooses them as it goes.
        side_by_side: jobs that share the machine at a time.
        host: where the leading process ran.
    """

    version: int
    overrides: tuple[str, ...]
    resumable: bool
    swept: tuple[str, ...]
    jobs: tuple[tuple[str, ...], ...]
    side_by_side: int
    host: str

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The index of a sweep, which may be somebody else's.

        Raises:
            ConfigError: there is none, it is damaged, or of another version.
        """
        path = folder / INDEX
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or "it is damaged"
            raise ConfigError(str(path), "", f"cannot be read: {reason}") from error
        if isinstance(raw, dict) and raw.get("version") != VERSION:
            raise ConfigError(str(path), "", f"this lab reads version {VERSION}")
        return from_dict(cls, raw)

    def again(self, folder: Path) -> list[str]:
        """The overrides to ask for the same with.

        Raises:
            ConfigError: they are not whole, or not such as a sweep writes.
        """
        if not self.resumable:
            raise ConfigError("sweep", folder, "held an interpolation, and cannot be resumed")
        for override in self.overrides:
            if not _is_harmless(override):
                raise ConfigError(str(folder / INDEX), override, "is not taken from a file")
        return list(self.overrides)

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / INDEX).open("x", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1)


def _is_harmless(override: str) -> bool:
    """Whether an override only sets what a run's config may hold, and chooses among our options."""
    from lab.compose.profiles import CONF

    key, _, value = override.partition("=")
    if key.lstrip("+") in RESUMED_SETTINGS or (CONF / key.lstrip("+~")).is_dir():
        return re.fullmatch(r"[\w,() -]*|\d*\.\d+", value) is not None  # no other folder, no code
    return re.fullmatch(r"[+~]{0,2}(?!hydra\b)[\w.]+", key) is not None and "${" not in value


def this_host() -> str:
    return socket.gethostname()


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job of a sweep, as its folder tells.

    Attributes:
        exit_code: that of its last go; None while it runs, and of one that was cut off.
    """

    number: int
    overrides: tuple[str, ...]
    exit_code: int | None = None

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """What is known of the job in ``folder``; None if nothing is."""
        try:
            return from_dict(cls, json.loads((folder / JOB).read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError):
            return None

    def write(self, folder: Path) -> None:
        """Put it in place whole: a sweep that is killed must find it again."""
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{JOB}.part"
        part.write_text(json.dumps(asdict(self)), encoding="utf-8")
        part.replace(folder / JOB)

    def ended(self, exit_code: int) -> Self:
        return replace(self, exit_code=exit_code)


def jobs_of(folder: Path) -> Iterator[tuple[Job, Path]]:
    """The jobs that were begun, by number, each with its folder."""
    found = [(job, path.parent) for path in folder.rglob(JOB) if (job := Job.read(path.parent))]
    yield from sorted(found, key=lambda pair: pair[0].number)


def state_of(job: Job, folder: Path) -> str:
    """In a word: a run's own state, ``running``, ``killed``, or ``refused`` before it began."""
    if is_running(job, folder):
        return "running"
    if job.exit_code == 2:
        return "refused"
    return str(summary_of(folder).get("state", "killed" if (job.exit_code or -1) < 0 else "failed"))


def is_running(job: Job, folder: Path) -> bool:
    if job.exit_code is not None:
        return False
    if not (folder / "metrics.jsonl").exists():
        return time.time() - (folder / JOB).stat().st_mtime < BEGIN_SECONDS
    try:
        check_idle(folder)
    except RunBusy:
        return True
    return False


def summary_of(folder: Path) -> dict[str, Any]:
    """A job's summary; empty before its end, and where it cannot be read."""
    try:
        return read_summary(folder)
    except ConfigError:
        return {}
