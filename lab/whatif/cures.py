"""What gave memory back in a recorded run short of a reload: remedies, censuses, explain.json."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from lab.config.schema import ConfigError
from lab.config.units import GB, MB
from lab.explain.explanation import Explanation, read_explanation
from lab.protocol import RUNGS, Rung
from lab.records.rows import plausible

LEAST_FALL = 2 * MB / GB  # GB that are gone after a census or a remedy that helped

Lines = Sequence[Mapping[str, Any]]  # rows or events


@dataclass(frozen=True)
class Cure:
    """The least rung that gives growth back.

    Attributes:
        source: how that is known: ``measured``, or ``expected`` by what holds the memory.
    """

    rung: Rung
    source: str


@dataclass(frozen=True)
class Cures:
    """What gave memory back, or took its time to try.

    Attributes:
        remedies: the rung of each lesser remedy that gave the growth back, by step.
        censuses: steps whose census did; it tries what keeps the state.
        first: the step of the first reload or remedy of any kind; None where there is none.
        seconds: of each use of each lesser rung.
        least: None where nothing tells.
        foreseen: what a census says is the remedy of all growth; None where it does not.
    """

    remedies: Mapping[int, Rung]
    censuses: Sequence[int]
    first: int | None
    seconds: Mapping[str, Sequence[float]]
    least: Cure | None
    foreseen: Rung | None


def read_cures(folder: Path, rows: Lines, events: Lines) -> Cures:
    """Read them from a run's rows, events and ``explain.json``.

    Arguments:
        rows: with the memory of every part.
    """
    explained = _explained(folder)
    taken = list(_taken(events))
    renewed = {e["step"] for e in events if _renews(e)}
    fell = set(_falls(rows, "process"))
    helped: dict[int, Rung] = {e["step"]: e["remedy"] for e in taken if e["step"] in fell}
    seconds: dict[str, list[float]] = defaultdict(list)
    for event in taken:
        seconds[event["remedy"]].append(event["seconds"])
    for rung, _, measured in explained.remedies:
        known = plausible(measured)
        if rung not in seconds and known is not None:
            seconds[rung].append(known)
    return Cures(
        remedies=helped,
        censuses=[step for step in _censuses(rows, explained) if step not in renewed],
        first=min(renewed, default=None),
        seconds=seconds,
        least=_least(helped, explained),
        foreseen=explained.sole_remedy,
    )


def _taken(events: Lines) -> Iterator[Mapping[str, Any]]:
    """The well-formed events of lesser remedies."""
    for event in events:
        known = event.get("event") == "remedy" and event.get("remedy") in RUNGS
        is_timed = plausible(event.get("seconds")) is not None
        if known and type(event.get("step")) is int and is_timed:
            yield event


def _renews(event: Mapping[str, Any]) -> bool:
    step = event.get("step")
    return event.get("event") in ("reload", "remedy") and type(step) is int and step > 0


def _falls(rows: Lines, figure: str) -> Iterator[int]:
    """Steps after which half of what a figure had grown by since the run's start was gone."""
    held = [(row["step"], row[f"memory/{figure}_gb"]) for row in rows]
    for (step, before), (_, after) in pairwise(held):
        if before - after > max((before - held[0][1]) / 2, LEAST_FALL):
            yield step


def _censuses(rows: Lines, explained: Explanation) -> Iterator[int]:
    """Up to the last census, of which ``explain.json`` is."""
    if explained.measured and explained.step is not None:
        figure = "cache" if explained.remedy == "clear_cache" else "active"
        yield from (step for step in _falls(rows, figure) if step <= explained.step)


def _explained(folder: Path) -> Explanation:
    """What ``explain.json`` says; nothing where it cannot be read."""
    try:
        return read_explanation(folder) or Explanation()
    except ConfigError:
        return Explanation()


def _least(helped: Mapping[int, Rung], explained: Explanation) -> Cure | None:
    if helped:
        return Cure(min(helped.values(), key=RUNGS.index), "measured")
    for rung in RUNGS:
        if rung == explained.remedy:
            return Cure(rung, "measured" if explained.measured else "expected")
    return None
