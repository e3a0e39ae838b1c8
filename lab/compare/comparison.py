"""Pure comparison of runs: settings that differ, losses that are equal, the Pareto front."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lab.compare.lines import REPEATING, Entry, Line, lines_of
from lab.compare.losses import HIDDEN_GROUPS, match_losses
from lab.compare.memory import watched
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
LABEL_SETTINGS = 3  # in a label, where no sweep says which
VALUE_LETTERS = 28
CENSUS_SHARE = 0.1  # of the peak: more shows in the curve
FEW_STEPS = 400  # from more on, losses are shown smoothed first


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        keys: settings that differ, swept ones first.
        named_by: the keys in the labels, swept ones if there are any.
        entries: one for each run.
        lines: what is drawn: the runs, those that differ in their seed only as one.
        figure: the memory figure shown first: what the policies watch.
        caveats: why the runs are not quite comparable, one line each.
        notes: the caveats and unreadable files, one line each.
        has_twins: whether there are runs that no setting tells apart.
    """

    title: str
    keys: tuple[str, ...]
    named_by: tuple[str, ...]
    entries: tuple[Entry, ...]
    lines: tuple[Line, ...]
    figure: str
    caveats: tuple[str, ...]
    notes: tuple[str, ...]
    has_twins: bool

    @property
    def is_explained(self) -> bool:
        """Whether any run says what grows in it."""
        return any(entry.run.explained for entry in self.entries)

    @property
    def is_tested(self) -> bool:
        """Whether some run has a loss of test data."""
        return any(entry.run.figures.test_loss is not None for entry in self.entries)

    @property
    def is_grouped(self) -> bool:
        """Whether some line is of several runs."""
        return len(self.lines) < len(self.entries)

    @property
    def told_by(self) -> tuple[str, ...]:
        """The keys that tell the lines apart: without the seed if that only repeats runs."""
        return tuple(k for k in self.named_by if k != REPEATING or not self.is_grouped)

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
            values=tuple(format_setting(_value(run, key)) for key in keys),
            loss_match=matches[i],
            run=run,
        )
        for i, (number, run) in enumerate(zip(numbers, runs, strict=True))
    )
    told_by = [key for key in named_by if key != REPEATING]
    caveats = [clean(line) for line in _caveats(runs)]
    problems = [f"{entry.label}: {p}" for entry in entries for p in entry.run.problems]
    return Comparison(
        title=clean(title),
        keys=tuple(keys),
        named_by=tuple(named_by),
        entries=entries,
        lines=lines_of(entries, [", ".join(_named(run, told_by)) for run in runs], keys),
        figure=watched(runs),
        caveats=tuple(caveats),
        notes=tuple(map(clean, (*notes, *caveats, *problems))),
        has_twins=len({entry.values for entry in entries}) < len(entries),
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
    emptied = sum(map(_shows_a_census, runs))
    if emptied:
        lines.append(
            f"memory fell in {emptied} of the runs when a census emptied MLX's cache: "
            "explain.enabled=false trains without"
        )
    return lines


def _shows_a_census(run: Run) -> bool:
    """Whether what a census gave back is a good part of the run's memory."""
    found = run.explained
    if found is None or found.step is None or found.copied is not None:
        return False
    highest = run.figures.peak_process_gb or 0.0
    return any((freed or 0.0) > CENSUS_SHARE * highest for _, freed, _ in found.remedies)


def _source(runs: Sequence[Run], group: str) -> list[str]:
    """The distinct models, or the distinct data, of these runs."""
    found: dict[tuple[Any, ...], str] = {}
    for run in runs:
        parts = tuple(run.settings.get(f"{group}.{key}") for key in ("name", "path", "hub_id"))
        if any(parts):
            found.setdefault(parts, format_setting(next(part for part in reversed(parts) if part)))
    return [clipped(name, 60) for name in found.values()]


# --- Overhead against peak memory ---------------------------------------------------------------


class Judged(Protocol):
    """A run or a line, as the front sees it."""

    @property
    def state(self) -> str: ...

    def overhead_and_peak(self, figure: str) -> tuple[float, float] | None: ...


def overhead_peak_front(judged: Sequence[Judged], figure: str) -> list[tuple[float, float]]:
    """The Pareto front of overhead and peak over what completed, or over all if nothing did."""
    completed = [one for one in judged if one.state == "completed"]
    points = [one.overhead_and_peak(figure) for one in completed or judged]
    return pareto_front([point for point in points if point is not None])


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The Pareto front, sorted: the points that no other one is at most as large as in both."""
    kept: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return kept
