"""A sweep's folder: its index, and the state of each job.

``sweep.json`` is written once, before the first job. Each job's folder has a ``job.json``, and what
any run has.
"""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from lab.config.schema import ConfigError, from_dict
from lab.records.files import RunBusy, check_idle, read_summary

SWEEP_VERSION = 1
CONFIG_NAME = "config"
INDEX_FILE, JOB_FILE = "sweep.json", "job.json"
START_SECONDS = 10.0  # within them a job that has no files open yet counts as running
# Hydra's own settings that the index keeps and a resumed sweep uses again. No others: an index may
# come from somebody else, and other settings can name code or hold a shell command.
RESUMED_SETTINGS = (
    *("hydra/launcher", "hydra/sweeper", "hydra/sweeper/sampler"),
    *("hydra.sweeper.direction", "hydra.sweeper.n_jobs", "hydra.sweeper.n_trials"),
    *("hydra.sweeper.sampler.seed", "hydra.launcher.n_jobs", "hydra.launcher.timeout_min"),
    *("hydra.launcher.cpus_per_task", "hydra.launcher.gpus_per_node", "hydra.launcher.mem_gb"),
    *("hydra.launcher.partition", "hydra.launcher.account", "hydra.launcher.qos"),
    *("hydra.launcher.ray.init.num_cpus", "hydra.launcher.ray.remote.num_cpus"),
    *("hydra.launcher.ray.remote.num_gpus", "hydra.job.chdir"),
)


@dataclass(frozen=True, kw_only=True)
class SweepIndex:
    """What a sweep was asked to run: the content of ``sweep.json``.

    Attributes:
        overrides: as typed, to compose the same sweep again.
        resumable: whether ``overrides`` and ``jobs`` are complete. They are empty where one holds
            an interpolation, which could read the environment of whoever resumes.
        swept: keys that differ between jobs.
        jobs: the overrides of each job; empty where the sweeper chooses them as it goes.
        side_by_side: how many jobs share the machine at a time.
        host: of the process that ran the sweep.
        subdir: ``hydra.sweep.subdir`` with ``{key}`` for an interpolation; None is Hydra's own, in
            an index from before it was kept. As the next three, it is used again by
            :mod:`lab.sweep.restore`, where it is harmless.
        config_name: ``--config-name``.
        config_dir: ``--config-dir``, relative to the sweep's folder.
        searchpath: ``hydra.searchpath``; folders are relative to the sweep's.
        cwd: where the command was given, relative to the sweep's folder; None in an older index.
    """

    version: int
    overrides: tuple[str, ...]
    resumable: bool
    swept: tuple[str, ...]
    jobs: tuple[tuple[str, ...], ...]
    side_by_side: int
    host: str
    subdir: str | None = None
    config_name: str = CONFIG_NAME
    config_dir: str | None = None
    searchpath: tuple[str, ...] = ()
    cwd: str | None = None

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a sweep's index, which may come from somebody else.

        Raises:
            ConfigError: it is missing, damaged, or of another version.
        """
        path = folder / INDEX_FILE
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or "it is damaged"
            raise ConfigError(str(path), "", f"cannot be read: {reason}") from error
        if isinstance(raw, dict) and raw.get("version") != SWEEP_VERSION:
            raise ConfigError(str(path), "", f"this lab reads version {SWEEP_VERSION}")
        return from_dict(cls, raw)

    def checked_overrides(self, folder: Path) -> list[str]:
        """The overrides to resume the sweep with, each of a kind that cannot name code.

        Raises:
            ConfigError: they are incomplete, or one is not of that kind.
        """
        if not self.resumable:
            raise ConfigError("sweep", folder, "held an interpolation, and cannot be resumed")
        for override in self.overrides:
            if not _is_harmless(override):
                raise ConfigError(str(folder / INDEX_FILE), override, "is not taken from a file")
        return list(self.overrides)

    def begun_in(self, folder: Path) -> Path:
        """What relative paths in the jobs' settings are relative to; here, if that is not there."""
        place = Path(os.path.normpath(folder.resolve() / (self.cwd or Path.cwd())))
        return place if place.is_dir() else Path.cwd()

    def text(self) -> str:
        return json.dumps(asdict(self), indent=1)


def _is_harmless(override: str) -> bool:
    """Whether an override only sets a key of a run's config or chooses an option of ``conf/``."""
    from lab.compose.profiles import CONF

    key, _, value = override.partition("=")
    is_group = (CONF / key.lstrip("+~")).is_dir() and "hydra" not in key
    if is_group or key.lstrip("+") in RESUMED_SETTINGS:
        return re.fullmatch(r"[\w,() -]*|\d*\.\d+", value) is not None  # no other folder, no code
    if "." not in key and ".." in value:
        return False  # perhaps a group of another folder of configs, and an option outside it
    return re.fullmatch(r"[+~]{0,2}(?!hydra\b)[\w.]+", key) is not None and "${" not in value


def this_host() -> str:
    return socket.gethostname()


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job of a sweep: the content of its ``job.json``.

    Attributes:
        exit_code: of its last process; None while that runs, and where it was cut off.
    """

    number: int
    overrides: tuple[str, ...]
    exit_code: int | None = None

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read the job in ``folder``; None where its file is missing or damaged."""
        try:
            return from_dict(cls, json.loads((folder / JOB_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError):
            return None

    def write(self, folder: Path) -> None:
        """Write the file by renaming: a sweep that is killed must not leave half of it."""
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{JOB_FILE}.part"
        part.write_text(json.dumps(asdict(self)), encoding="utf-8")
        part.replace(folder / JOB_FILE)

    def ended(self, exit_code: int) -> Self:
        return replace(self, exit_code=exit_code)


Begun = Mapping[int, tuple[Job, Path]]
"""The jobs that were started, by number, each with its folder."""


def jobs_of(folder: Path) -> Iterator[tuple[Job, Path]]:
    """The jobs that were started, by number, each with its folder."""
    found = [
        (job, path.parent) for path in folder.rglob(JOB_FILE) if (job := Job.read(path.parent))
    ]
    yield from sorted(found, key=lambda pair: pair[0].number)


def state_of(job: Job, folder: Path) -> str:
    """A job's state: its run's, or ``running``, ``killed``, ``failed`` or ``refused``."""
    if is_running(job, folder):
        return "running"
    if job.exit_code == 2:
        return "refused"
    return str(summary_of(folder).get("state", "killed" if (job.exit_code or -1) < 0 else "failed"))


def is_running(job: Job, folder: Path) -> bool:
    if job.exit_code is not None:
        return False
    if not (folder / "metrics.jsonl").exists():
        return time.time() - (folder / JOB_FILE).stat().st_mtime < START_SECONDS
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
