"""Pure comparison of runs: settings that differ, losses that are equal, the Pareto front."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.compare.read import Run
from lab.tracking.text import clean, short_names

# The key that names the chosen option of a swept config group.
GROUP_KEYS = {
    "model": "model.name",
    "data": "data.name",
    "adapter": "adapter.kind",
    "optimizer": "optimizer.name",
    "reload": "reload.policy",
    "hardware": "hardware.name",
}
# Of the settings that are not swept.
FIRST_GROUPS = ("fault", "trainer", "model", "data", "adapter", "reload")
# Not shown as differences: they follow from other settings, or say nothing about the training.
HIDDEN_GROUPS = ("version", "name", "hardware", "tracker", "objective", "sweep")
# Losses are equal bit for bit whatever these are.
NOT_AFFECTING_LOSS = (
    *HIDDEN_GROUPS,
    "explain",
    "reload",
    "memory",
    "worker",
    "checkpoint",
    "fault",
)
KEYS_NOT_AFFECTING_LOSS = ("train.val_interval_steps", "train.val_batches")

LABEL_SETTINGS = 3  # in a label, where no sweep says which
VALUE_LETTERS = 28
FEW_STEPS = 400  # from more on, losses are shown smoothed first
REFERENCE = "reference"


@dataclass(frozen=True)
class Entry:
    """One run in a comparison.

    Attributes:
        number: its job number in a sweep, else its index among the runs.
        label: number and settings, e.g. ``1: interval_steps=10``.
        short: number and values only, for a legend whose title names the settings.
        values: the settings that differ, as text, in the order of the comparison's keys.
        loss_match: its loss against that of the longest run with the same learning settings:
            ``reference``, ``= NUMBER``, ``≠ NUMBER from step STEP``; empty if there is no other.
    """

    number: int
    label: str
    short: str
    values: tuple[str, ...]
    loss_match: str
    run: Run

    def range(self, figure: str) -> tuple[float, float] | None:
        """Minimum and maximum of one memory figure over the run, in GB; None without values."""
        values = self.run.columns[f"memory/{figure}_gb"]
        there = values[~np.isnan(values)]
        return (float(there.min()), float(there.max())) if len(there) else None

    def overhead_and_peak(self, figure: str) -> tuple[float, float] | None:
        """Overhead (fraction of the time) and peak of one memory figure (GB), if both are known."""
        overhead, known = self.run.figures.overhead_fraction, self.range(figure)
        return None if overhead is None or known is None else (overhead, known[1])


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        keys: settings that differ, swept ones first.
        named_by: the keys in the labels, swept ones if there are any.
        notes: caveats and unreadable files, one line each.
    """

    title: str
    keys: tuple[str, ...]
    named_by: tuple[str, ...]
    entries: tuple[Entry, ...]
    notes: tuple[str, ...]

    @property
    def is_explained(self) -> bool:
        """Whether any run says what grows in it."""
        return any(entry.run.explained for entry in self.entries)

    @property
    def figure(self) -> str:
        """The memory figure shown first: ``process`` if most policies watch it, else ``peak``."""
        metrics = [e.run.settings.get("reload.metric", "process") for e in self.entries]
        return "process" if 2 * metrics.count("process") >= len(metrics) else "peak"

    @property
    def is_long(self) -> bool:
        """Whether there are too many steps to read a loss curve that is not smoothed."""
        return max((len(entry.run.columns) for entry in self.entries), default=0) > FEW_STEPS


def compare(runs: Sequence[Run], *, title: str, notes: Iterable[str] = ()) -> Comparison:
    """Compare runs by their settings and losses.

    Arguments:
        notes: put before the notes found here.
    """
    swept = [
        GROUP_KEYS.get(key, key) for key in dict.fromkeys(k for run in runs for k in run.swept)
    ]
    keys = differing(runs, swept)
    named_by = [key for key in keys if key in swept] or keys[:LABEL_SETTINGS]
    numbers = _numbers(runs)
    matches = match_losses(runs, numbers)
    entries = tuple(
        Entry(
            number=number,
            label=f"{number}: {', '.join(_named(run, named_by)) or _own_name(run)}",
            short=f"{number}: {', '.join(_values(run, named_by)) or _own_name(run)}",
            values=tuple(format_setting(_value(run, key)) for key in keys),
            loss_match=matches[i],
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
    """The settings that differ between the runs whose settings are known, swept ones first."""
    known = [run.settings for run in runs if run.settings]
    keys = dict.fromkeys(key for settings in known for key in settings)
    found = [
        key
        for key in keys
        if (_group(key) not in HIDDEN_GROUPS or key in swept or key == "hardware.name")
        and len({format_setting(value) for value in _known_values(known, key)}) > 1
    ]
    first = {group: i for i, group in enumerate(FIRST_GROUPS)}
    found.sort(key=lambda key: first.get(_group(key), len(FIRST_GROUPS)))
    return sorted(found, key=lambda key: swept.index(key) if key in swept else len(swept))


def _known_values(known: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    """A setting's values; of a fault only where it is on, since ``fault`` says where that is."""
    ours = [settings for settings in known if key in settings or not key.startswith("fault.")]
    return [settings.get(key) for settings in ours]


def _group(key: str) -> str:
    return key.partition(".")[0]


def _named(run: Run, keys: Sequence[str]) -> list[str]:
    names, known = short_names(keys), run.settings or run.overrides
    pairs = zip(names, keys, strict=True)
    return [
        f"{name}={clipped(format_setting(_value(run, key)))}" for name, key in pairs if key in known
    ]


def _values(run: Run, keys: Sequence[str]) -> list[str]:
    return [text.partition("=")[2] or "-" for text in _named(run, keys)]


def _own_name(run: Run) -> str:
    return clipped(clean(run.name), 2 * VALUE_LETTERS)


def _value(run: Run, key: str) -> Any:
    return run.settings.get(key) if run.settings else run.overrides.get(key)


def format_setting(value: Any) -> str:
    """A setting as typed on the command line; empty for null, the value of an unused one."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.10g}"
    return clean(str(value))


def clipped(text: str, longest: int = VALUE_LETTERS) -> str:
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
    steps = Counter(format_setting(run.settings.get("train.steps")) for run in known)
    steps.pop("", None)
    if len(steps) > 1:
        lines.append(f"the runs differ in length: train.steps={', '.join(sorted(steps, key=int))}")
    return lines


def _source(runs: Sequence[Run], group: str) -> list[str]:
    """The distinct models, or the distinct data, of these runs."""
    found: dict[tuple[Any, ...], str] = {}
    for run in runs:
        parts = tuple(run.settings.get(f"{group}.{key}") for key in ("name", "path", "hub_id"))
        if any(parts):
            found.setdefault(parts, format_setting(next(part for part in reversed(parts) if part)))
    return [clipped(name, 60) for name in found.values()]


# --- Losses -------------------------------------------------------------------------------------


def match_losses(runs: Sequence[Run], numbers: Sequence[int]) -> list[str]:
    """Compare the loss of each run with that of the longest run with the same learning settings.

    Equal means bit for bit at every step that both have.

    Arguments:
        numbers: of the runs, as they are printed.

    Returns:
        One text for each run, see :class:`Entry`.
    """
    alike: dict[tuple[Any, ...], list[int]] = {}
    for i, run in enumerate(runs):
        if run.settings and len(run.columns):
            alike.setdefault(_learning_settings(run.settings), []).append(i)
    result = [""] * len(runs)
    for members in alike.values():
        reference = max(members, key=lambda i: (len(runs[i].columns), -i))
        for i in members if len(members) > 1 else ():
            result[i] = _loss_match(runs[i], runs[reference], numbers[reference])
        if len(members) > 1:
            result[reference] = REFERENCE
    return result


def _learning_settings(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(
        (key, repr(value))
        for key, value in sorted(settings.items())
        if _group(key) not in NOT_AFFECTING_LOSS and key not in KEYS_NOT_AFFECTING_LOSS
    )


def _loss_match(run: Run, reference: Run, number: int) -> str:
    steps = min(len(run.columns), len(reference.columns))
    same = np.ones(steps, bool)
    for key in ("step", "loss"):
        mine, other = (r.columns[key][:steps] for r in (run, reference))
        same &= (mine == other) | (np.isnan(mine) & np.isnan(other))
    if not same.all():
        return f"≠ {number} from step {run.columns['step'][np.argmin(same)]:.0f}"
    return f"= {number}" + (f", {steps} steps" if steps < len(reference.columns) else "")


def agreement(entries: Sequence[Entry]) -> str:
    """Sum up the loss matches of all runs in a few words; empty if none can be compared."""
    alike = [entry.loss_match for entry in entries if entry.loss_match]
    different = sum(match.startswith("≠") for match in alike)
    kinds = alike.count(REFERENCE)
    if different:
        return f"{different} of {len(alike)} runs differ from one with the same settings"
    if kinds > 1:
        return f"the same in every bit within each of {kinds} settings ({len(alike)} runs)"
    return f"the same in every bit in {len(alike)} runs" if alike else ""


# --- Overhead against peak memory ---------------------------------------------------------------


def overhead_peak_front(entries: Sequence[Entry], figure: str) -> list[tuple[float, float]]:
    """The Pareto front of overhead and peak over the completed runs, or over all if none is."""
    completed = [entry for entry in entries if entry.run.state == "completed"]
    points = [entry.overhead_and_peak(figure) for entry in completed or entries]
    return pareto_front([point for point in points if point is not None])


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The Pareto front, sorted: the points that no other one is at most as large as in both."""
    kept: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return kept
