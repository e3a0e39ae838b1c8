"""Read one run from its folder, as far as its files can be read."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lab.catalog.find import RunLocation
from lab.config.keys import Config
from lab.config.schema import ConfigError, to_dict
from lab.explain.explanation import Explanation, read_explanation
from lab.plots.columns import MEMORY_FIGURES, Columns, read_columns_fast, read_reloads
from lab.records.files import read_summary
from lab.records.summary import figures_so_far
from lab.tracking.text import clean


@dataclass(frozen=True)
class ReloadPoint:
    """A reload as it is drawn: the step it followed, GB of 2^30 bytes freed, seconds taken.

    Attributes:
        before: memory figures just before it, in GB, as far as they are known.
    """

    step: int
    reason: str
    freed_gb: float | None
    seconds: float | None
    method: str
    before: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A run's summary in numbers, None where unknown. Memory in GB of 2^30 bytes, time in s.

    Attributes:
        remedy_seconds: in reloads and remedies, without checkpoints of their own.
    """

    steps: int
    final_loss: float | None
    test_loss: float | None
    tokens_per_second: float | None
    peak_process_gb: float | None
    peak_mlx_gb: float | None
    mean_process_gb: float | None
    slope_mb_per_step: float | None
    overhead_fraction: float | None
    seconds: float | None
    remedy_seconds: float
    reloads: Mapping[str, int]
    remedies: Mapping[str, int]

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> Self:
        """Take the figures from a summary, in which anything may be missing or of another type."""
        times, steps = summary.get("seconds"), summary.get("steps")
        parts = times if isinstance(times, Mapping) else {}
        plain = {"steps", "seconds", "remedy_seconds", "reloads", "remedies"}
        return cls(
            steps=steps if type(steps) is int else 0,
            seconds=_number(times.get("total")) if isinstance(times, Mapping) else None,
            remedy_seconds=sum(_number(parts.get(name)) or 0.0 for name in ("reload", "remedy")),
            reloads=_counts(summary.get("reloads")),
            remedies=_counts(summary.get("remedies")),
            **{k: _number(summary.get(k)) for k in cls.__dataclass_fields__ if k not in plain},
        )


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, as far as its files can be read.

    Attributes:
        name: from its config, or its folder's if the config cannot be read.
        settings: its config by dotted key, the names of its faults as ``fault``; empty if it cannot
            be read.
        overrides: values that its sweep gave to the swept keys, used if ``settings`` is empty.
        job: its number in its sweep.
        swept: keys that its sweep varies.
        data: fingerprint of the training data, if known.
        problems: one line for each file that could not be read.
        budget_figure: the memory figure that the budget is held on.
        began: when its config was written, in seconds since the epoch; None without one.
        explained: what grows, who holds it and the remedy; None where no ``explain.json`` says so.
    """

    folder: Path
    name: str
    state: str
    settings: Mapping[str, Any]
    overrides: Mapping[str, str]
    job: int | None
    swept: tuple[str, ...]
    data: str | None
    figures: Figures
    columns: Columns
    reloads: tuple[ReloadPoint, ...]
    problems: tuple[str, ...]
    budget_figure: str
    began: float | None
    explained: Explanation | None = None

    @property
    def growth(self) -> tuple[str, str, str]:
        """Kind, holder and remedy of what grows, as text; empty where nothing is known to."""
        found = self.explained or Explanation()
        return found.kind, found.holder, found.remedy


def read_run(location: RunLocation) -> Run:
    """Read a run's files; a file that cannot be read becomes a line of ``problems``."""
    folder = location.folder
    columns, problem = read_columns_fast(folder)
    problems = [problem] if problem else []
    settings = _settings(folder, problems)
    state = location.state()
    explained = _explained(folder, problems)
    summary = _summary(folder, problems) if state != "running" else {}
    if not summary and state != "refused":
        summary, problem = figures_so_far(folder, columns.rows())
        problems += [problem] if problem else []
    if not len(columns):
        problems.append("has no rows yet" if state == "running" else "has no rows")
    environment = summary.get("environment")
    known = environment if isinstance(environment, Mapping) else {}
    data = known.get("data_fingerprint")
    return Run(
        folder=folder,
        name=str(settings.get("name", folder.resolve().name)),
        state=clean(state),
        settings=settings,
        overrides=_swept_overrides(location),
        job=location.job.number if location.job else None,
        swept=location.swept,
        data=str(data) if data else None,
        figures=Figures.of(summary),
        columns=columns,
        reloads=tuple(_reload_point(event) for event in _reloads(folder, problems)),
        problems=tuple(problems),
        budget_figure=_budget_figure(known),
        began=_began(folder),
        explained=explained,
    )


def _settings(folder: Path, problems: list[str]) -> dict[str, Any]:
    if not (folder / "config.yaml").exists():
        problems.append("has no config.yaml; it is shown by its folder's name")
        return {}
    try:
        return with_faults_named(flat(to_dict(Config.load(folder / "config.yaml"))))
    except ConfigError as error:
        ours = error.key == str(folder / "config.yaml")
        problems.append(
            f"config.yaml {error.allowed if ours else f'is not taken: {error}'}; "
            "it is shown by its folder's name"
        )
        return {}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to one with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def with_faults_named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Name the faults in one setting, ``fault``, and leave those out that are not on."""
    kept = {k: v for k, v in settings.items() if v is not None or not k.startswith("fault.")}
    names = dict.fromkeys(key.split(".")[1] for key in kept if key.startswith("fault."))
    return kept | {"fault": ", ".join(names) or "none"}


def _explained(folder: Path, problems: list[str]) -> Explanation | None:
    """What a run's ``explain.json`` says, where memory grows."""
    try:
        found = read_explanation(folder)
    except ConfigError as error:
        problems.append(f"explain.json {error.allowed}")
        return None
    return found if found is not None and found.grows else None


def _swept_overrides(location: RunLocation) -> dict[str, str]:
    given = location.job.overrides if location.job else ()
    pairs = (override.lstrip("+~").partition("=") for override in given)
    return {key: value for key, _, value in pairs if key in location.swept}


def _summary(folder: Path, problems: list[str]) -> dict[str, Any]:
    try:
        return read_summary(folder)
    except ConfigError:
        problems.append("summary.json cannot be read: its figures are taken from its rows")
        return {}


def _reloads(folder: Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    try:
        yield from read_reloads(folder)
    except OSError as error:
        problems.append(f"events.jsonl cannot be read: {error.strerror}")


def _budget_figure(environment: Mapping[str, Any]) -> str:
    """On CUDA the budget is held on MLX's memory, elsewhere on that of the process."""
    is_linux = str(environment.get("platform")).startswith("Linux")
    return "mlx" if is_linux and "gpu" in str(environment.get("device")) else "process"


def _began(folder: Path) -> float | None:
    try:
        return (folder / "config.yaml").stat().st_mtime
    except OSError:
        return None


def _before(figures: object) -> dict[str, float]:
    known = figures if isinstance(figures, Mapping) else {}
    values = {name: _number(known.get(f"memory/{name}_gb")) for name in MEMORY_FIGURES}
    found = {name: value for name, value in values.items() if value is not None}
    # The peak of the steps since its last reading is no peak of a step.
    found.pop("peak", None)
    if "active" in found and "cache" in found:
        found["mlx"] = found["active"] + found["cache"]
    return found


def _reload_point(event: Mapping[str, Any]) -> ReloadPoint:
    parts = event.get("seconds")
    times = [_number(part) for part in parts.values()] if isinstance(parts, Mapping) else []
    return ReloadPoint(
        step=event["step"],
        reason=clean(str(event.get("reason"))),
        freed_gb=_number(event.get("freed_gb")),
        seconds=sum(max(t, 0.0) for t in times if t is not None) if times else None,
        method=clean(str(event.get("method"))),
        before=_before(event.get("before")),
    )


def _counts(value: object) -> dict[str, int]:
    counts = value.items() if isinstance(value, Mapping) else ()
    return {clean(str(name)): n for name, n in counts if type(n) is int}


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if abs(value) < sys.float_info.max else None
