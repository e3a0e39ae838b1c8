"""The entries of ``lab ls`` as lines of text, and as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from lab.catalog.entries import Entry, RunEntry, SweepEntry
from lab.tracking.text import clean, number

TEST = "test loss"  # shown where a run has one
FIGURES = ("steps", "loss", TEST, "peak GB", "reloads")
GAP = "  "


@dataclass(frozen=True)
class Line:
    """One line of the listing.

    Attributes:
        figures: one cell for each of ``FIGURES`` that is shown, or for all of them together.
    """

    date: str
    name: str
    state: str
    figures: tuple[str, ...]
    path: str


def table(entries: Sequence[Entry], *, unfold: bool, width: int | None) -> list[str]:
    """The listing, a line for each entry.

    Arguments:
        unfold: whether the jobs of each sweep follow it.
        width: of the terminal, in letters. In a narrow one the folder's name, which a command
            takes too, stands for date, name and path. None is no terminal: nothing is left out.
    """
    wide = _aligned(_lines(entries, unfold, "%Y-%m-%d %H:%M"), None)
    if width is None or all(len(line) <= width for line in wide):
        return wide
    lines = _lines(entries, unfold, "%m-%d", by_folder=True)
    return _aligned([replace(line, path="") for line in lines], width)


def _lines(
    entries: Sequence[Entry], unfold: bool, date: str, *, by_folder: bool = False
) -> list[Line]:
    """The heads, then a line for each entry."""
    shown = [run for entry in entries for run in _runs(entry, unfold)]
    tested = any(run.test_loss is not None for run in shown)
    heads = tuple(head for head in FIGURES if tested or head != TEST)
    head = Line("date", "folder" if by_folder else "name", "state", heads, "path")
    return [head, *_entry_lines(entries, unfold, date, heads, by_folder=by_folder)]


def _runs(entry: Entry, unfold: bool) -> Sequence[RunEntry]:
    """The runs that have a line of their own."""
    if isinstance(entry, RunEntry):
        return [entry]
    return entry.jobs if unfold else []


def _entry_lines(
    entries: Iterable[Entry], unfold: bool, date: str, heads: Sequence[str], *, by_folder: bool
) -> Iterator[Line]:
    for entry in entries:
        day = datetime.fromtimestamp(entry.started).astimezone().strftime(date)
        path = clean(str(entry.folder))
        own = _folder_name(entry) if by_folder else entry.name
        if isinstance(entry, RunEntry):
            yield Line(day, own, entry.state, _figures(entry, heads), path)
            continue
        counts = f"{entry.planned:,} jobs, {entry.completed:,} completed"
        yield Line(day, f"sweep {own}", entry.state, (counts,), path)
        for job in _runs(entry, unfold):
            of_job = clean(str(job.folder))
            name = f"{GAP}{of_job[len(path) + 1 :]} {job.name}"
            yield Line("", name, job.state, _figures(job, heads), of_job)


def _folder_name(entry: Entry) -> str:
    """What names an entry's folder: a job's only with its sweep's."""
    is_job = isinstance(entry, RunEntry) and entry.job is not None
    return clean("/".join(entry.folder.parts[-2 if is_job else -1 :]))


def _figures(run: RunEntry, heads: Sequence[str]) -> tuple[str, ...]:
    total = "?" if run.total_steps is None else f"{run.total_steps}"
    loss, test = (number(value, ".4f") for value in (run.final_loss, run.test_loss))
    cells = (f"{run.steps}/{total}", loss, test, number(run.peak_gb, ".3f"), str(run.reloads))
    return tuple(text for head, text in zip(FIGURES, cells, strict=True) if head in heads)


def _aligned(lines: Sequence[Line], width: int | None) -> list[str]:
    """Lines with their cells below one another; names are cut to ``width``."""
    cells = [line.figures for line in lines if len(line.figures) > 1]
    each = [max(map(len, column)) for column in zip(*cells, strict=True)]
    together = max(sum(each) + len(GAP) * (len(each) - 1), *(len(x.figures[0]) for x in lines))
    dates, names, states = (
        max(len(getattr(line, part)) for line in lines) for part in ("date", "name", "state")
    )
    if width is not None:
        names = max(min(names, width - dates - states - together - 3 * len(GAP)), len("folder"))
    found = []
    for line in lines:
        figures = GAP.join(
            text if len(line.figures) == 1 else text.rjust(size)
            for text, size in zip(line.figures, each, strict=False)
        )
        name = line.name if len(line.name) <= names else f"{line.name[: names - 1]}…"
        parts = (
            line.date.ljust(dates),
            name.ljust(names),
            line.state.ljust(states),
            figures.ljust(together),
            line.path,
        )
        found.append(GAP.join(parts).rstrip())
    return found


# --- For a program ------------------------------------------------------------------------------


def to_json(entry: Entry) -> dict[str, Any]:
    """An entry as plain values."""
    common = {
        "started": datetime.fromtimestamp(entry.started).astimezone().isoformat(),
        "name": entry.name,
        "state": entry.state,
        "path": str(entry.folder),
    }
    if isinstance(entry, SweepEntry):
        own = {"planned": entry.planned, "completed": entry.completed}
        return {"kind": "sweep", **common, **own, "jobs": [to_json(job) for job in entry.jobs]}
    return {
        "kind": "run",
        **common,
        "job": entry.job,
        "steps": entry.steps,
        "total_steps": entry.total_steps,
        "final_loss": entry.final_loss,
        "test_loss": entry.test_loss,
        "peak_process_gb": entry.peak_gb,
        "reloads": entry.reloads,
    }
