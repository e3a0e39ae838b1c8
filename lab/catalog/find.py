"""Find runs in folders of runs, of sweeps, or of folders of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.config.schema import ConfigError
from lab.records.files import RunBusy, check_idle, read_summary
from lab.sweep.index import INDEX_FILE, Job, SweepIndex, jobs_of, state_of

RUN_FILES = ("config.yaml", "metrics.jsonl")  # either makes a folder a run's
SKIPPED_FOLDERS = ("checkpoints", "wandb", "mlruns")  # no runs in there
STORE_FILE = "meta.yaml"  # of an experiment of MLflow's: in there are copies of runs' files


@dataclass(frozen=True)
class RunLocation:
    """A run's folder, and what its sweep says of it.

    Attributes:
        job: its record in a sweep; None for a run of its own.
        swept: keys that its sweep varies.
    """

    folder: Path
    job: Job | None = None
    swept: tuple[str, ...] = ()

    def state(self) -> str:
        """What became of the run: its summary's state, ``running``, ``killed``, ``unknown``, ..."""
        if self.job is not None:
            return state_of(self.job, self.folder)
        try:
            check_idle(self.folder)
            return str(read_summary(self.folder).get("state", "killed"))
        except RunBusy:
            return "running"
        except (ConfigError, OSError):
            return "unknown"


@dataclass(frozen=True)
class FoundRuns:
    """The runs in the given folders.

    Attributes:
        notes: one line for each sweep whose index cannot be read or whose jobs are incomplete.
    """

    locations: tuple[RunLocation, ...]
    notes: tuple[str, ...]


def find_runs(folders: Sequence[Path]) -> FoundRuns:
    """Find all runs in these folders, each once, in order.

    Raises:
        ConfigError: a folder does not exist, or holds no run.
    """
    locations: dict[Path, RunLocation] = {}
    notes: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError("folder", folder, "there is no such folder")
        found = list(_locations(folder, notes))
        if not found:
            raise ConfigError("folder", folder, "holds no runs; give that of a run or of a sweep")
        for location in found:
            locations.setdefault(location.folder.resolve(), location)
    return FoundRuns(tuple(locations.values()), tuple(notes))


def _locations(folder: Path, notes: list[str]) -> Iterator[RunLocation]:
    if (folder / INDEX_FILE).is_file():
        yield from _jobs(folder, notes)
    elif any((folder / name).is_file() for name in RUN_FILES):
        yield RunLocation(folder)
    elif not (folder / STORE_FILE).is_file():
        for child in sorted(_children(folder), key=_natural_key):
            yield from _locations(child, notes)


def _jobs(folder: Path, notes: list[str]) -> Iterator[RunLocation]:
    """The jobs of a sweep, from their own files alone if the sweep's index cannot be read."""
    swept: tuple[str, ...] = ()
    jobs = list(jobs_of(folder))
    try:
        index = SweepIndex.read(folder)
    except ConfigError as error:
        notes.append(f"{error}; its jobs are shown all the same")
    else:
        swept = index.swept
        missing = len(index.jobs) - len(jobs)
        if missing > 0:
            notes.append(f"{missing} of {len(index.jobs)} jobs of the sweep have not begun")
    known = {path for _, path in jobs}
    yield from (RunLocation(path, job, swept) for job, path in jobs)
    for child in sorted(_children(folder), key=_natural_key):
        if child not in known:
            yield from _locations(child, notes)


def _children(folder: Path) -> Iterator[Path]:
    for entry in os.scandir(folder):
        hidden = entry.name.startswith(".") or entry.name in SKIPPED_FOLDERS
        if entry.is_dir(follow_symlinks=False) and not hidden:
            yield Path(entry.path)


def _natural_key(path: Path) -> list[Any]:
    """Natural sort order: numbers in a name by their value, 2 before 10."""
    parts = (part for part in re.split(r"([0-9]{1,15})", path.name) if part)
    return [(not part.isdigit(), int(part) if part.isdigit() else part) for part in parts]
