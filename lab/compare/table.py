"""The table of the page: a row a line, and under a line of several runs a row for each."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

from lab.compare.comparison import Comparison
from lab.compare.lines import REPEATING, Entry
from lab.compare.memory import FIGURES
from lab.tracking.text import MEMORY_WORDS, clean, duration, number, short_names

PEAK, MEAN = "peak GB", "mean GB"  # of the chosen memory, whose word follows
TEST = "test loss"  # shown where a run has one
FIGURE_HEADS = (
    "state", "steps", PEAK, f"{PEAK}, {MEMORY_WORDS['peak']}", MEAN, "slope MB/step", "reloads",
    "overhead", "tokens/s", "time", "final loss", TEST, "loss curve",
)  # fmt: skip
EXPLAINED_HEADS = ("what grows", "held by", "its remedy")
BEGAN = "began"  # shown where no setting tells runs apart


@dataclass(frozen=True)
class Cell:
    """A cell of the table.

    Attributes:
        order: sort key within its column.
        by_memory: text and sort key for each memory figure, as JSON; empty if it has one only.
    """

    text: str
    order: float | str
    is_number: bool = True
    by_memory: str = ""


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        line: index of its line's first run, as the traces name it.
        kind: ``run``, ``group``, or ``member`` of the group above it.
        entry: index of its first run among the entries, for its colour.
        title: shown on hovering.
        name: of the run: its number, or those of a group's.
    """

    line: int
    kind: str
    entry: int
    title: str
    name: str
    cells: Sequence[Cell]
    folder: str


def heads(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Of each column: its text, its full name, and what the memory's word follows if one does."""
    names = short_names(comparison.keys)
    shown = (head for head in FIGURE_HEADS if head != TEST or comparison.is_tested)
    figures = (*shown, *(EXPLAINED_HEADS if comparison.is_explained else ()))
    word = MEMORY_WORDS[comparison.figure]
    return [
        *((name, key, "") for name, key in zip(names, comparison.keys, strict=True)),
        *((f"{n}, {word}", n, n) if n in (PEAK, MEAN) else (n, n, "") for n in figures),
        *([(BEGAN, "when its config was written", "")] if comparison.has_twins else ()),
    ]


def rows_of(comparison: Comparison, folder: Path) -> list[Row]:
    """All rows in the order of the lines.

    Arguments:
        folder: of the page.
    """
    places = {id(entry): i for i, entry in enumerate(comparison.entries)}
    found = []
    for line in comparison.lines:
        if line.is_group:
            numbers = ", ".join(str(entry.number) for entry in line.entries)
            cells = cells_of(comparison, line.entries)
            count = f"{len(line.entries)} {REPEATING}s"
            found.append(Row(line.index, "group", line.index, line.label, count, cells, numbers))
        for entry in line.entries:
            kind, place = "member" if line.is_group else "run", places[id(entry)]
            cells, where = cells_of(comparison, [entry]), os.path.relpath(entry.run.folder, folder)
            name = str(entry.number)
            found.append(Row(line.index, kind, place, entry.label, name, cells, clean(where)))
    return found


def cells_of(comparison: Comparison, entries: Sequence[Entry]) -> list[Cell]:
    """The cells of a run's row after its number; of several runs, their means."""

    def figure(name: str, form: str) -> Cell:
        return _figure(_mean([getattr(entry.run.figures, name) for entry in entries]), form)

    seconds = _mean([entry.run.figures.seconds for entry in entries])
    matches = _distinct(entry.loss_match for entry in entries)
    growth = zip(*(entry.run.growth for entry in entries), strict=True)
    began = min((e.run.began for e in entries if e.run.began is not None), default=None)
    return [
        *(_setting(_distinct(values)) for values in zip(*(e.values for e in entries), strict=True)),
        _text(_distinct(entry.state for entry in entries)),
        figure("steps", ",.0f"),
        _by_memory({name: _peak(entries, name) for name in FIGURES}, comparison.figure),
        _figure(_peak(entries, "peak"), ".3f"),
        _by_memory(
            {name: _mean([entry.mean(name) for entry in entries]) for name in FIGURES},
            comparison.figure,
        ),
        figure("slope_mb_per_step", ".4f"),
        _reloads(entries),
        figure("overhead_fraction", ".1%"),
        figure("tokens_per_second", ",.0f"),
        Cell(duration(seconds), seconds or 0.0),
        figure("final_loss", ".4f"),
        *([figure("test_loss", ".4f")] if comparison.is_tested else ()),
        _text(matches),
        *(_text(_distinct(texts)) for texts in (growth if comparison.is_explained else ())),
        *([Cell(moment(began), began or 0.0, is_number=False)] if comparison.has_twins else ()),
    ]


def moment(seconds: float | None) -> str:
    """A time as date and time of day, here."""
    if seconds is None:
        return "-"
    return f"{datetime.fromtimestamp(seconds, UTC).astimezone():%Y-%m-%d %H:%M:%S}"


def _peak(entries: Sequence[Entry], figure: str) -> float | None:
    ranges = [entry.range(figure) for entry in entries]
    return max((known[1] for known in ranges if known is not None), default=None)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _distinct(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def _by_memory(values: Mapping[str, float | None], chosen: str) -> Cell:
    cells = {name: _figure(value, ".3f") for name, value in values.items()}
    choices = {name: (cell.text, cell.order) for name, cell in cells.items()}
    return Cell(cells[chosen].text, cells[chosen].order, by_memory=json.dumps(choices))


def _reloads(entries: Sequence[Entry]) -> Cell:
    """How many for each reason, remedies too; of several runs, how many a run."""
    done = Counter[str]()
    for entry in entries:
        done.update(entry.run.figures.reloads)
        done.update(entry.run.figures.remedies)
    total = sum(sum(entry.run.figures.reloads.values()) for entry in entries)
    said = (f"{round(count / len(entries), 1):g} {name}" for name, count in done.items())
    return Cell(", ".join(said) or "0", total / len(entries))


def _text(text: str) -> Cell:
    return Cell(clean(text) or "-", text, is_number=False)


def _setting(text: str) -> Cell:
    try:
        return Cell(text, float(text))
    except ValueError:
        return Cell(text or "-", text, is_number=False)


def _figure(value: float | None, form: str) -> Cell:
    return Cell(number(value, form), -1e300 if value is None else value)
