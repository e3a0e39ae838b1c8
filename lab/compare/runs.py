"""Runs as their folders tell: found, and read as far as they can be read."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl

from lab.config.keys import Config
from lab.config.schema import ConfigError, to_dict
from lab.plots.curves import KEYS, Columns, read_columns, read_reloads
from lab.records.files import RunBusy, check_idle, read_summary
from lab.records.rows import read_jsonl
from lab.records.summary import figures_of
from lab.sweep.index import INDEX_FILE, Job, SweepIndex, jobs_of, state_of
from lab.tracking.text import clean

MARKS = ("config.yaml", "metrics.jsonl")  # either makes a folder a run's
INSIDE = ("checkpoints", "wandb")  # no runs in there
SCHEMA = {"step": pl.Int64, **dict.fromkeys(KEYS, pl.Float64)}


@dataclass(frozen=True)
class Place:
    """Where a run lies, before it is read.

    Attributes:
        job: what a sweep knows of it.
        swept: keys that its sweep varies.
    """

    folder: Path
    job: Job | None = None
    swept: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reload:
    step: int
    reason: str
    freed_gb: float | None
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A run in numbers; None where there is none yet. Memory is in GB of 2^30 bytes."""

    steps: int
    final_loss: float | None
    tokens_per_second: float | None
    peak_process_gb: float | None
    peak_mlx_gb: float | None
    mean_process_gb: float | None
    slope_mb_per_step: float | None
    overhead_fraction: float | None
    seconds: float | None
    reloads: Mapping[str, int]

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> Self:
        """From a summary, in which anything may be missing or of another type."""
        times, reloads, steps = (summary.get(k) for k in ("seconds", "reloads", "steps"))
        plain = {"steps", "seconds", "reloads"}
        return cls(
            steps=steps if type(steps) is int else 0,
            seconds=_number(times.get("total")) if isinstance(times, Mapping) else None,
            reloads={clean(str(k)): n for k, n in reloads.items() if type(n) is int}
            if isinstance(reloads, Mapping)
            else {},
            **{k: _number(summary.get(k)) for k in cls.__dataclass_fields__ if k not in plain},
        )


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, as far as its files can be read.

    Attributes:
        name: its own, or its folder's where its config cannot be read.
        settings: its config by dotted key; empty where it cannot be read.
        asked: what its sweep asked of it, for what ``settings`` does not say.
        job: its number in its sweep.
        swept: keys that its sweep varies.
        data: fingerprint of what it learned from, where it is known.
        problems: what could not be read, and what is done about it.
    """

    folder: Path
    name: str
    state: str
    settings: Mapping[str, Any]
    asked: Mapping[str, str]
    job: int | None
    swept: tuple[str, ...]
    data: str | None
    figures: Figures
    columns: Columns
    reloads: tuple[Reload, ...]
    problems: tuple[str, ...]


# --- Finding them -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What lies in the folders given.

    Attributes:
        notes: jobs of a sweep that are not there yet, and indexes that cannot be read.
    """

    places: tuple[Place, ...]
    notes: tuple[str, ...]


def find_runs(folders: Sequence[Path]) -> Found:
    """All runs in folders of runs, of sweeps, or of folders of them, each once, in order.

    Raises:
        ConfigError: a folder does not exist, or holds no run.
    """
    places: dict[Path, Place] = {}
    notes: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError("folder", folder, "there is no such folder")
        found = list(_places(folder, notes))
        if not found:
            raise ConfigError("folder", folder, "holds no runs; give that of a run or of a sweep")
        for place in found:
            places.setdefault(place.folder.resolve(), place)
    return Found(tuple(places.values()), tuple(notes))


def _places(folder: Path, notes: list[str]) -> Iterator[Place]:
    if (folder / INDEX_FILE).is_file():
        yield from _jobs(folder, notes)
    elif any((folder / mark).is_file() for mark in MARKS):
        yield Place(folder)
    else:
        for child in sorted(_children(folder), key=_natural):
            yield from _places(child, notes)


def _children(folder: Path) -> Iterator[Path]:
    for entry in os.scandir(folder):
        hidden = entry.name.startswith(".") or entry.name in INSIDE
        if entry.is_dir(follow_symlinks=False) and not hidden:
            yield Path(entry.path)


def _natural(path: Path) -> list[Any]:
    """Numbers in a name by their value: 2 comes before 10."""
    return [(not part.isdigit(), int(part) if part.isdigit() else part) for part in _parts(path)]


def _parts(path: Path) -> list[str]:
    return [part for part in re.split(r"([0-9]{1,15})", path.name) if part]


def _jobs(folder: Path, notes: list[str]) -> Iterator[Place]:
    """The jobs of a sweep; found by their files alone where its index cannot be read."""
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
    yield from (Place(path, job, swept) for job, path in jobs)
    for child in sorted(_children(folder), key=_natural):
        if child not in known:
            yield from _places(child, notes)


# --- Reading one --------------------------------------------------------------------------------


def read_run(place: Place) -> Run:
    """Everything that a run's files say; what cannot be read is a problem, never an error."""
    folder, problems = place.folder, []
    columns = _columns(folder, problems)
    settings = _settings(folder, problems)
    state = _state(place)
    summary = _summary(folder, problems) if state != "running" else {}
    if not summary and state != "refused":
        summary = _figures_so_far(folder, columns, problems)
    if not len(columns):
        problems.append("has no rows yet" if state == "running" else "has no rows")
    environment = summary.get("environment")
    data = environment.get("data_fingerprint") if isinstance(environment, Mapping) else None
    return Run(
        folder=folder,
        name=str(settings.get("name", folder.resolve().name)),
        state=clean(state),
        settings=settings,
        asked=_asked(place),
        job=place.job.number if place.job else None,
        swept=place.swept,
        data=str(data) if data else None,
        figures=Figures.of(summary),
        columns=columns,
        reloads=tuple(_reload(event) for event in _reloads(folder, problems)),
        problems=tuple(problems),
    )


def _columns(folder: Path, problems: list[str]) -> Columns:
    """As :func:`read_columns`, in a tenth of its time where every line is as it should be."""
    try:
        text = (folder / "metrics.jsonl").read_bytes()
        whole = io.BytesIO(text[: text.rfind(b"\n") + 1])
        frame = pl.read_ndjson(whole, schema=SCHEMA).filter(pl.col("step").is_not_null())
    except FileNotFoundError:
        return read_columns(folder)
    except pl.exceptions.PolarsError:
        problems.append("metrics.jsonl is damaged: lines that cannot be read are left out")
        return read_columns(folder)
    except OSError as error:
        problems.append(f"metrics.jsonl cannot be read: {error.strerror}")
        return Columns({key: np.array([]) for key in SCHEMA})
    return Columns({name: frame[name].cast(pl.Float64).to_numpy() for name in SCHEMA})


def _settings(folder: Path, problems: list[str]) -> dict[str, Any]:
    if not (folder / "config.yaml").exists():
        problems.append("has no config.yaml; it is shown by its folder's name")
        return {}
    try:
        return flat(to_dict(Config.load(folder / "config.yaml")))
    except ConfigError as error:
        ours = error.key == str(folder / "config.yaml")
        problems.append(
            f"config.yaml {error.allowed if ours else f'is not taken: {error}'}; "
            "it is shown by its folder's name"
        )
        return {}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _asked(place: Place) -> dict[str, str]:
    given = place.job.overrides if place.job else ()
    pairs = (override.lstrip("+~").partition("=") for override in given)
    return {key: value for key, _, value in pairs if key in place.swept}


def _state(place: Place) -> str:
    if place.job is not None:
        return state_of(place.job, place.folder)
    try:
        check_idle(place.folder)
        return str(read_summary(place.folder).get("state", "killed"))
    except RunBusy:
        return "running"
    except (ConfigError, OSError):
        return "unknown"


def _summary(folder: Path, problems: list[str]) -> dict[str, Any]:
    try:
        return read_summary(folder)
    except ConfigError:
        problems.append("summary.json cannot be read: its figures are taken from its rows")
        return {}


def _figures_so_far(folder: Path, columns: Columns, problems: list[str]) -> dict[str, Any]:
    """The summary of a run that has none, from what it has written so far."""
    names = list(columns.values)
    table = zip(*(columns[name].tolist() for name in names), strict=True)
    rows, newest = [], 0
    for values in table:
        row = {k: v for k, v in zip(names, values, strict=True) if v == v}
        if row["step"] > newest:  # a damaged file may tell a step twice
            row["step"] = newest = int(row["step"])
            rows.append(row)
    try:
        return figures_of(rows, list(read_jsonl(folder / "events.jsonl")))
    except (TypeError, ValueError, AttributeError, OSError):
        problems.append("events.jsonl is damaged: reloads and overhead are not counted")
        return figures_of(rows, [])


def _reloads(folder: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    try:
        yield from read_reloads(folder)
    except OSError as error:
        problems.append(f"events.jsonl cannot be read: {error.strerror}")


def _reload(event: Mapping[str, Any]) -> Reload:
    parts = event.get("seconds")
    times = [_number(part) for part in parts.values()] if isinstance(parts, Mapping) else []
    return Reload(
        step=event["step"],
        reason=clean(str(event.get("reason"))),
        freed_gb=_number(event.get("freed_gb")),
        seconds=sum(max(t, 0.0) for t in times if t is not None) if times else None,
    )


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < sys.float_info.max else None
