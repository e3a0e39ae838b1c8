"""The runs and sweeps below a folder, each with what one line can say of it.

Folders may be damaged, half written or somebody else's: each costs its line, never an error.
"""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lab.catalog.find import RunLocation
from lab.config.schema import ConfigError
from lab.config.units import MB
from lab.records.rows import MOST, decode, plausible
from lab.sweep.index import INDEX_FILE, JOB_FILE, Job, summary_of
from lab.sweep.lease import is_leased
from lab.tracking.text import clean

FILES = ("config.yaml", "metrics.jsonl", "summary.json", JOB_FILE)
ENDED = ("completed", "interrupted", "budget_exceeded", "failed", "killed", "refused")
STATES = ("running", *ENDED, "unknown")
RESUMABLE = ("interrupted", "budget_exceeded", "failed", "killed")
MOST_BYTES = 64 * MB  # of metrics.jsonl that are read
SMALL_BYTES = 4 * MB  # that the other files have at most
CONFIG_LETTERS = 65536
MOST_LETTERS = 120  # of a name
LATEST = 4e9  # seconds since 1970: a file may say that it is of any year
NOT_PLAIN = -1  # as a file's size: a folder, a pipe, ...

Stamp = list[int]


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """One run.

    Attributes:
        started: seconds since 1970.
        name: from its config, or its folder's.
        steps: that have a row.
        total_steps: that it was to have; None where its config does not say.
        test_loss: mean over its test data; None where it has none.
        peak_gb: of the process, in GB of 2^30 bytes.
        job: its number in its sweep.
    """

    folder: Path
    started: float
    name: str
    state: str
    steps: int = 0
    total_steps: int | None = None
    final_loss: float | None = None
    test_loss: float | None = None
    peak_gb: float | None = None
    reloads: int = 0
    job: int | None = None


@dataclass(frozen=True, kw_only=True)
class SweepEntry:
    """One sweep.

    Attributes:
        started: seconds since 1970.
        name: its folder's, without the time.
        planned: how many jobs it is to have, or has, if more.
        jobs: that have begun.
    """

    folder: Path
    started: float
    name: str
    planned: int
    jobs: tuple[RunEntry, ...]
    is_leased: bool

    @property
    def completed(self) -> int:
        return sum(job.state == "completed" for job in self.jobs)

    @property
    def state(self) -> str:
        """``running``, ``completed``, ``interrupted`` where jobs can go on, else ``failed``."""
        states = Counter(job.state for job in self.jobs)
        if self.is_leased or states["running"]:
            return "running"
        if self.completed == self.planned and self.planned:
            return "completed"
        cut = len(self.jobs) < self.planned or states["interrupted"] or states["killed"]
        return "interrupted" if cut else "failed"


Entry = RunEntry | SweepEntry


def started(folder: Path, named_by: str) -> float:
    """When a run or sweep was begun: by its folder's name, else by its first file's time."""
    day, clock = folder.parent.name, folder.name[:8]
    with suppress(ValueError, OverflowError):
        return time.mktime(time.strptime(f"{day} {clock}", "%Y-%m-%d %H-%M-%S"))
    for path in (folder / named_by, folder):
        with suppress(OSError):
            return min(max(path.stat().st_mtime, 0.0), LATEST)
    return 0.0


# --- One run ------------------------------------------------------------------------------------


def stamp_of(folder: Path) -> Stamp:
    """Size and time of change of each file that an entry is read from; 0 where there is none."""
    found = []
    for name in FILES:
        try:
            status = os.stat(f"{folder}/{name}")  # noqa: PTH116 - ten thousand times
        except OSError:
            found += [0, 0]
            continue
        is_plain = stat.S_ISREG(status.st_mode)
        found += [status.st_size if is_plain else NOT_PLAIN, status.st_mtime_ns]
    return found


def read_run(folder: Path, stamp: Stamp) -> RunEntry:
    """Read one run; what cannot be read is left out, and ``unknown`` where that is its state."""
    with suppress(OSError):
        sizes = dict(zip(FILES, stamp[::2], strict=True))
        small = {name: size for name, size in sizes.items() if name != "metrics.jsonl"}
        if NOT_PLAIN not in sizes.values() and max(small.values()) <= SMALL_BYTES:
            return _read(folder)
    began = started(folder, "config.yaml")
    return RunEntry(folder=folder, started=began, name=_shown(folder.name), state="unknown")


def _read(folder: Path) -> RunEntry:
    job = Job.read(folder)
    state = RunLocation(folder, job).state()
    summary = summary_of(folder) if state != "running" else {}
    name, total = _config(folder)
    return RunEntry(
        folder=folder,
        started=started(folder, "config.yaml"),
        name=_shown(name or folder.name),
        state=state if state in STATES else "unknown",
        total_steps=total,
        job=job.number if job else None,
        **(_of_summary(summary) if "steps" in summary else _of_rows(folder)),
    )


def _config(folder: Path) -> tuple[str, int | None]:
    """A run's name and its steps. All of a config is parsed in 40 ms, these two lines in none."""
    try:
        with (folder / "config.yaml").open(encoding="utf-8", errors="replace") as file:
            text = file.read(CONFIG_LETTERS)
    except OSError:
        return "", None
    name = re.search(r"^name: *(.*)$", text, re.MULTILINE)
    steps = re.search(r"^train:\n(?:  .*\n)*?  steps: (\d{1,12})$", text, re.MULTILINE)
    return _unquoted(name[1]) if name else "", int(steps[1]) if steps else None


def _unquoted(text: str) -> str:
    if text[:1] not in ("'", '"'):
        return text
    import yaml  # few names have quotes

    with suppress(yaml.YAMLError, ValueError):
        return str(yaml.safe_load(text))
    return text


def _of_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    reloads = summary.get("reloads")
    counts = reloads.values() if isinstance(reloads, dict) else ()
    return {
        "steps": _count(summary["steps"]),
        "final_loss": plausible(summary.get("final_loss")),
        "test_loss": plausible(summary.get("test_loss")),
        "peak_gb": plausible(summary.get("peak_process_gb")),
        "reloads": sum(map(_count, counts)),
    }


def _of_rows(folder: Path) -> dict[str, Any]:
    """The same figures of a run without a summary."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - MOST_BYTES, 0))
            text = file.read(MOST_BYTES)
    except OSError:
        return {}
    end = text.rfind(b"\n") + 1
    row = decode(text[text.rfind(b"\n", 0, end - 1) + 1 : end]) if end else None
    if row is None:
        return {}
    peaks = map(float, re.findall(rb'"memory/process_gb": (\d{1,9}(?:\.\d+)?)[,}]', text))
    return {
        "steps": _count(row.get("step")),
        "final_loss": plausible(row.get("loss")),
        "peak_gb": max(peaks, default=None),
        "reloads": _count(row.get("reload/count")),
    }


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value < MOST else 0


def _shown(name: str) -> str:
    return clean(name[:MOST_LETTERS])


# --- One sweep ----------------------------------------------------------------------------------


def sweep_of(folder: Path, jobs: Sequence[RunEntry]) -> SweepEntry:
    """A sweep with its jobs, by number."""
    return SweepEntry(
        folder=folder,
        started=started(folder, INDEX_FILE),
        name=_shown(re.sub(r"^\d\d-\d\d-\d\d_", "", folder.name)),
        planned=max(_planned(folder / INDEX_FILE), len(jobs)),
        jobs=tuple(sorted(jobs, key=lambda job: (job.job is None, job.job or 0, str(job.folder)))),
        is_leased=is_leased(folder),
    )


def _planned(index: Path) -> int:
    """How many jobs an index names. All of it is checked where it is used, not for one line."""
    try:
        jobs = json.loads(index.read_text(encoding="utf-8"))["jobs"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return 0
    return len(jobs) if isinstance(jobs, list) else 0


# --- By state -----------------------------------------------------------------------------------


def states_of(words: str | None) -> tuple[str, ...]:
    """The states in a list with commas; none for None.

    Raises:
        ConfigError: one is no state.
    """
    states = tuple((words or "").replace(" ", "").split(",")) if words is not None else ()
    for state in states:
        if state not in STATES:
            near = get_close_matches(state, STATES, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError("--state", state, f"{hint}one of {', '.join(STATES)}")
    return states


def in_states(entries: Iterable[Entry], states: Sequence[str]) -> Iterator[Entry]:
    """The entries in one of these states; of a sweep in another one the jobs that are."""
    for entry in entries:
        if entry.state in states:
            yield entry
        elif isinstance(entry, SweepEntry):
            yield from (job for job in entry.jobs if job.state in states)
