"""Runs side by side: what differs between them, and which learned the same; pure decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.compare.runs import Run
from lab.tracking.text import clean, short_names

# What a swept group is called in a config.
LEAVES = {
    "model": "model.name",
    "data": "data.name",
    "adapter": "adapter.kind",
    "optimizer": "optimizer.name",
    "reload": "reload.policy",
    "hardware": "hardware.name",
}
FIRST = ("trainer", "model", "data", "adapter", "reload")  # of what was not swept
# Not told as a difference: it follows from the rest, or says nothing about the run itself.
UNTOLD = ("version", "name", "hardware", "tracker", "objective", "sweep")
# Does not touch what is learned.
UNLEARNED = (*UNTOLD, "reload", "memory", "worker", "checkpoint", "fault")
UNLEARNED_KEYS = ("train.val_interval_steps", "train.val_batches")

NAMED_BY = 3  # settings in a label, where no sweep says which
LONGEST = 28  # letters of a value
FEW_STEPS = 400
REFERENCE = "reference"


@dataclass(frozen=True)
class Entry:
    """One run in a comparison.

    Attributes:
        number: its place, or that of the job in its sweep.
        label: number and settings, e.g. ``1: interval_steps=10``.
        short: the same without the settings' names, for a legend that has them as its title.
        values: the settings that differ, as text, in the order of the comparison's keys.
        same: how its loss stands to that of the run that learns with the same settings.
    """

    number: int
    label: str
    short: str
    values: tuple[str, ...]
    same: str
    run: Run

    def range(self, figure: str) -> tuple[float, float] | None:
        """The lowest and the highest of one memory figure over the whole run, in GB."""
        values = self.run.columns[f"memory/{figure}_gb"]
        there = values[~np.isnan(values)]
        return (float(there.min()), float(there.max())) if len(there) else None

    def place(self, figure: str) -> tuple[float, float] | None:
        """Overhead and peak, if both are known."""
        overhead, known = self.run.figures.overhead_fraction, self.range(figure)
        return None if overhead is None or known is None else (overhead, known[1])


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        keys: settings that differ, swept ones first.
        named_by: those of them that make a label.
        notes: what the reader should know before he compares, one line each.
    """

    title: str
    keys: tuple[str, ...]
    named_by: tuple[str, ...]
    entries: tuple[Entry, ...]
    notes: tuple[str, ...]

    @property
    def figure(self) -> str:
        """The memory figure to show first: one that most runs' policies look at."""
        metrics = [e.run.settings.get("reload.metric", "process") for e in self.entries]
        return "process" if 2 * metrics.count("process") >= len(metrics) else "peak"

    @property
    def is_long(self) -> bool:
        """Whether there are so many steps that their losses are a band of noise."""
        return max((len(entry.run.columns) for entry in self.entries), default=0) > FEW_STEPS


def compare(runs: Sequence[Run], *, title: str, notes: Iterable[str] = ()) -> Comparison:
    """Decide what is told of these runs.

    Arguments:
        notes: lines that come before those found here.
    """
    swept = [LEAVES.get(key, key) for key in dict.fromkeys(k for run in runs for k in run.swept)]
    keys = differing(runs, swept)
    named_by = [key for key in keys if key in swept] or keys[:NAMED_BY]
    numbers = _numbers(runs)
    same = sameness(runs, numbers)
    entries = tuple(
        Entry(
            number=number,
            label=f"{number}: {', '.join(_named(run, named_by)) or _own_name(run)}",
            short=f"{number}: {', '.join(_values(run, named_by)) or _own_name(run)}",
            values=tuple(shown(_value(run, key)) for key in keys),
            same=same[i],
            run=run,
        )
        for i, (number, run) in enumerate(zip(numbers, runs, strict=True))
    )
    problems = [f"{entry.label}: {p}" for entry in entries for p in entry.run.problems]
    return Comparison(
        title=clean(title),
        keys=tuple(keys),
        named_by=tuple(named_by),
        entries=entries,
        notes=tuple(map(clean, (*notes, *_caveats(runs), *problems))),
    )


def _numbers(runs: Sequence[Run]) -> list[int]:
    jobs = [run.job for run in runs]
    parents = {run.folder.resolve().parent for run in runs}
    of_one_sweep = None not in jobs and len(set(jobs)) == len(jobs) and len(parents) == 1
    return [job for job in jobs if job is not None] if of_one_sweep else list(range(len(runs)))


# --- What differs -------------------------------------------------------------------------------


def differing(runs: Sequence[Run], swept: Sequence[str] = ()) -> list[str]:
    """The settings that are not the same in all runs whose settings are known."""
    known = [run.settings for run in runs if run.settings]
    keys = dict.fromkeys(key for settings in known for key in settings)
    found = [
        key
        for key in keys
        if (_group(key) not in UNTOLD or key in swept or key == "hardware.name")
        and len({shown(settings.get(key)) for settings in known}) > 1
    ]
    first = {group: i for i, group in enumerate(FIRST)}
    found.sort(key=lambda key: first.get(_group(key), len(FIRST)))
    return sorted(found, key=lambda key: swept.index(key) if key in swept else len(swept))


def _group(key: str) -> str:
    return key.partition(".")[0]


def _named(run: Run, keys: Sequence[str]) -> list[str]:
    names, known = short_names(keys), run.settings or run.asked
    pairs = zip(names, keys, strict=True)
    return [f"{name}={clipped(shown(_value(run, key)))}" for name, key in pairs if key in known]


def _values(run: Run, keys: Sequence[str]) -> list[str]:
    return [text.partition("=")[2] or "-" for text in _named(run, keys)]


def _own_name(run: Run) -> str:
    return clipped(clean(run.name), 2 * LONGEST)


def _value(run: Run, key: str) -> Any:
    return run.settings.get(key) if run.settings else run.asked.get(key)


def shown(value: Any) -> str:
    """A setting as it would be typed; nothing for null, which is what goes unused."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.10g}"
    return clean(str(value))


def clipped(text: str, longest: int = LONGEST) -> str:
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[-longest // 2 + 1 :]}"


# --- What is comparable -------------------------------------------------------------------------


def _caveats(runs: Sequence[Run]) -> list[str]:
    known = [run for run in runs if run.settings]
    names = {"model": _source(known, "model"), "data": _source(known, "data")}
    lines = [
        f"the runs differ in their {what}: {', '.join(found)}"
        for what, found in names.items()
        if len(found) > 1
    ]
    if len(names["data"]) < 2 and len({run.data for run in known if run.data}) > 1:
        lines.append("the runs learned from different data: its fingerprints differ")
    steps = Counter(shown(run.settings.get("train.steps")) for run in known)
    steps.pop("", None)
    if len(steps) > 1:
        lines.append(f"the runs differ in length: train.steps={', '.join(sorted(steps, key=int))}")
    return lines


def _source(runs: Sequence[Run], group: str) -> list[str]:
    """The models, or the data, of runs, each once."""
    found: dict[tuple[Any, ...], str] = {}
    for run in runs:
        parts = tuple(run.settings.get(f"{group}.{key}") for key in ("name", "path", "hub_id"))
        if any(parts):
            found.setdefault(parts, shown(next(part for part in reversed(parts) if part)))
    return [clipped(name, 60) for name in found.values()]


# --- What was learned ---------------------------------------------------------------------------


def sameness(runs: Sequence[Run], numbers: Sequence[int]) -> list[str]:
    """How the loss of each run stands to that of the longest run that learns with its settings.

    They must be equal in every bit at every step that both have.
    """
    alike: dict[tuple[Any, ...], list[int]] = {}
    for i, run in enumerate(runs):
        if run.settings and len(run.columns):
            alike.setdefault(_learning(run.settings), []).append(i)
    result = [""] * len(runs)
    for members in alike.values():
        reference = max(members, key=lambda i: (len(runs[i].columns), -i))
        for i in members if len(members) > 1 else ():
            result[i] = _stands(runs[i], runs[reference], numbers[reference])
        if len(members) > 1:
            result[reference] = REFERENCE
    return result


def _learning(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(
        (key, repr(value))
        for key, value in sorted(settings.items())
        if _group(key) not in UNLEARNED and key not in UNLEARNED_KEYS
    )


def _stands(run: Run, reference: Run, number: int) -> str:
    steps = min(len(run.columns), len(reference.columns))
    same = np.ones(steps, bool)
    for key in ("step", "loss"):
        mine, other = (r.columns[key][:steps] for r in (run, reference))
        same &= (mine == other) | (np.isnan(mine) & np.isnan(other))
    if not same.all():
        return f"≠ {number} from step {run.columns['step'][np.argmin(same)]:.0f}"
    return f"= {number}" + (f", {steps} steps" if steps < len(reference.columns) else "")


def agreement(entries: Sequence[Entry]) -> str:
    """In a few words, whether runs that learn with the same settings have the same loss."""
    alike = [entry.same for entry in entries if entry.same]
    different = sum(same.startswith("≠") for same in alike)
    kinds = alike.count(REFERENCE)
    if different:
        return f"{different} of {len(alike)} runs differ from one with the same settings"
    if kinds > 1:
        return f"the same in every bit within each of {kinds} settings ({len(alike)} runs)"
    return f"the same in every bit in {len(alike)} runs" if alike else ""


# --- What is worth choosing ---------------------------------------------------------------------


def front(entries: Sequence[Entry], figure: str) -> list[tuple[float, float]]:
    """Overhead and peak of the completed runs that no other one beats in both, by overhead."""
    completed = [entry for entry in entries if entry.run.state == "completed"]
    points = [entry.place(figure) for entry in completed or entries]
    return pareto([point for point in points if point is not None])


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points for which no other is at most as large in both, and not the same."""
    kept: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return kept
