"""Compare the records of two runs bit for bit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from lab.config.schema import ConfigError
from lab.records.files import read_summary
from lab.records.rows import check_rows, read_jsonl, read_rows
from lab.records.summary import figures_so_far

COMPARED = ("loss", "learning_rate", "tokens")

VALUE_LETTERS = 100  # of a value in the report

Row = Mapping[str, Any]

Verdict = Literal["identical", "different", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Records:
    """The compared values of a run, and its figures.

    Attributes:
        rows: ``step`` and the compared keys of each whole row.
        state: as in ``summary.json``; None for a run without a summary.
        steps: the last step, after which ``weights`` was taken.
        weights: SHA-256 of the trained weights; None where the run recorded none.
        config_sha256: hash of the config that the run was started with.
        environment: versions, device, fingerprints.
        figures: from the summary; for a run without one, from its rows so far.
        lost_rows: why a run that has trained has no row; empty where it has one.
    """

    rows: tuple[Row, ...] = ()
    state: str | None = None
    steps: int = 0
    weights: str | None = None
    config_sha256: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    lost_rows: str = ""

    @property
    def is_empty(self) -> bool:
        return not self.rows and self.weights is None

    @classmethod
    def read(cls, run_dir: Path) -> Self:
        """Read the records in a run's folder, which may be half written, or not written by us.

        Raises:
            ConfigError: a file cannot be read at all.
        """
        try:
            summary = read_summary(run_dir)
            rows = list(read_rows(run_dir))
            first = _first_events(run_dir)
        except OSError as error:
            raise ConfigError("run", run_dir, f"its records cannot be read: {error}") from error
        steps, weights = summary.get("steps"), summary.get("weights_sha256")
        began, worker = first.get("run_started", {}), first.get("worker_started", {})
        return cls(
            rows=tuple(map(_compared, rows)),
            state=_text(summary.get("state")),
            steps=steps if isinstance(steps, int) else max((r["step"] for r in rows), default=0),
            weights=_text(weights),
            config_sha256=_text(began.get("config_sha256")),
            environment=mapping(summary.get("environment") or worker.get("environment")),
            figures=summary or figures_so_far(run_dir, rows)[0],
            lost_rows=_lost_rows(run_dir),
        )


def _lost_rows(run_dir: Path) -> str:
    try:
        check_rows(run_dir)
    except ConfigError as error:
        return f"its metrics.jsonl {error.allowed}"
    return ""


def _compared(row: Row) -> Row:
    return {key: row.get(key) for key in ("step", *COMPARED)}


def _first_events(run_dir: Path) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for event in read_jsonl(run_dir / "events.jsonl"):
        found.setdefault(str(event.get("event")), event)
        if "worker_started" in found:
            break
    return found


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Difference:
    """A key whose values in the run (``then``) and in its reproduction (``now``) differ."""

    key: str
    then: object
    now: object

    def __str__(self) -> str:
        return f"{self.key} {_shown(self.then)} then, {_shown(self.now)} now"


@dataclass(frozen=True, kw_only=True)
class RecordComparison:
    """The result of comparing a run with its reproduction.

    Attributes:
        same: steps whose records agree.
        differing: steps whose records do not.
        missing: steps of the run that an unfinished reproduction did not reach.
        first_step: the first step that differs; None if none does.
        first: the keys that differ at that step.
        weights: whether both hashes agree; None if they cannot be compared.
        why_not: why the weights cannot be compared; empty if they can.
        unfinished: how a reproduction ended that stopped before the run's end; else empty.
        environment: the keys of the environment that differ.
        tolerance: relative tolerance of losses; 0 is bit for bit.
    """

    same: int
    differing: int
    missing: int
    first_step: int | None
    first: tuple[Difference, ...]
    weights: bool | None
    why_not: str
    unfinished: str
    environment: tuple[Difference, ...]
    tolerance: float

    @property
    def verdict(self) -> Verdict:
        if self.differing or self.weights is False:
            return "different"
        return "undecided" if self.unfinished else "identical"

    @property
    def exit_code(self) -> int:
        return {"identical": 0, "different": 1, "undecided": 2}[self.verdict]


def compare_records(then: Records, now: Records, *, tolerance: float = 0.0) -> RecordComparison:
    """Compare each recorded step of a run with its reproduction, whose other steps do not count.

    A reproduction that ended early is unfinished, not different: the steps it did not reach are
    not compared. A completed one that lacks a step of the run is different.

    Arguments:
        then: of the run.
        now: of its reproduction.
        tolerance: relative tolerance of losses.
    """
    found = {row["step"]: row for row in now.rows}
    is_complete = now.state == "completed"
    missing = 0 if is_complete else sum(row["step"] not in found for row in then.rows)
    compared = [row for row in then.rows if is_complete or row["step"] in found]
    pairs = [(row["step"], _row_differences(row, found, tolerance)) for row in compared]
    differing = [pair for pair in pairs if pair[1]]
    first_step, first = min(differing, key=lambda pair: pair[0], default=(None, ()))
    why_not = _why_no_weights(then, now, tolerance)
    is_unfinished = not is_complete and (missing > 0 or then.state == "completed")
    return RecordComparison(
        same=len(pairs) - len(differing),
        differing=len(differing),
        missing=missing,
        first_step=first_step,
        first=first,
        weights=None if why_not else then.weights == now.weights,
        why_not=why_not,
        unfinished=_ending(now.state) if is_unfinished else "",
        environment=_differences(then.environment, now.environment),
        tolerance=tolerance,
    )


def _row_differences(
    then: Row, found: Mapping[int, Row], tolerance: float
) -> tuple[Difference, ...]:
    now = found.get(then["step"])
    if now is None:
        return (Difference("record", "there", "missing"),)
    return tuple(
        Difference(key, then[key], now[key])
        for key in COMPARED
        if not _is_same(then[key], now[key], tolerance if key == "loss" else 0.0)
    )


def _is_same(then: object, now: object, tolerance: float) -> bool:
    """Equal bit for bit (-0.0 is not 0.0), or floats within the relative tolerance."""
    if tolerance and isinstance(then, float) and isinstance(now, float):
        return math.isclose(then, now, rel_tol=tolerance)
    return repr(then) == repr(now)


def _why_no_weights(then: Records, now: Records, tolerance: float) -> str:
    """Why the weights cannot be compared; empty if they can."""
    if tolerance and then.weights != now.weights:
        return "train.deterministic=false"
    if then.weights is None:
        return f"the run {_ending(then.state)}"
    if now.weights is None:
        return f"the reproduction {_ending(now.state)}"
    same = then.steps == now.steps
    return "" if same else f"they are of step {then.steps} then, of step {now.steps} now"


def _ending(state: str | None) -> str:
    endings = {
        "completed": "completed without telling their hash",
        "interrupted": "was interrupted",
        "budget_exceeded": "exceeded its memory budget",
        "failed": "failed",
    }
    return endings.get(state or "", "was cut off, or still goes on")


def _differences(then: Row, now: Row) -> tuple[Difference, ...]:
    return tuple(
        Difference(key, then[key], now[key])
        for key in now
        if key in then and repr(then[key]) != repr(now[key])
    )


def _shown(value: object) -> str:
    """A value as one printable line: a record may hold anything."""
    is_plain = isinstance(value, str) and value.isprintable()
    text = str(value) if is_plain else json.dumps(value)
    return text if len(text) <= VALUE_LETTERS else f"{text[: VALUE_LETTERS - 3]}..."
