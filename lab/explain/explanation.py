"""What ``explain.json`` says: its version, its keys, and how it is read where anybody wrote it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from lab.config.schema import ConfigError, why_unreadable
from lab.config.units import MB
from lab.explain.advice import advice_on
from lab.explain.kinds import KINDS, Rates, kind_of, split
from lab.explain.measured import HALF, Copied
from lab.protocol import RUNGS, Rung

EXPLAIN_FILE = "explain.json"
EXPLAIN_VERSION = 1
LONGEST, MOST_ROWS = 500, 50  # letters of a text, rows of a list, of what anybody may have written
MOST = 0.75  # of the growth that must be of one kind, for its remedy to be that of all growth
CONFIDENCE = 0.99  # that memory grows, where growth was found certain
REMEDIES = ("clear_cache", "collect", "reload_in_process", "reload_process", "none")


@dataclass(frozen=True)
class Measured:
    """A remedy that was tried, and its seconds.

    Attributes:
        process, active, cache: bytes by which each was less after it.
        unreachable: objects that the collector freed.
    """

    remedy: str
    process: int
    active: int
    cache: int
    seconds: float
    unreachable: int = 0

    @property
    def freed(self) -> int:
        return max(self.process, self.active + self.cache, 0)

    def row(self) -> dict[str, Any]:
        return {
            "remedy": self.remedy,
            "freed_gb": self.freed / 2**30,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Found:
    """What a census found of one kind of memory.

    Attributes:
        holder: path, line or function; None where nothing was found.
        root: of the holder, as :class:`lab.explain.holders.Holder` has it, or ``line``.
        what: counts and bytes of what is held, one row each.
        signatures: of a compiled function: how many, and what changed.
        chain: operations of the longest lazy graph.
        container: what takes in more and more, where the holder is one of its items.
    """

    holder: str | None = None
    root: str | None = None
    what: Sequence[Mapping[str, Any]] = ()
    signatures: Mapping[str, Any] | None = None
    chain: int | None = None
    container: str | None = None


def explanation(
    step: int, rates: Rates, found: Found, measured: Sequence[Measured], *, grown: float
) -> dict[str, Any]:
    """The content of ``explain.json`` of a run whose memory grows.

    Arguments:
        found: of the largest kind that is certain to grow.
        measured: in the order in which they were tried.
        grown: bytes by which memory has grown; a remedy works that gives half of it back.
    """
    kinds, kind = split(rates), kind_of(rates)
    found = found if any(m.unreachable for m in measured) else _reachable(found)
    tried = next((m.remedy for m in measured if works(m, kind, grown)), None)
    remedy = tried or expected_remedy(kind, found.root)
    rows = [m.row() for m in measured]
    done = {row["remedy"] for row in rows}
    rows += [
        {"remedy": name, "freed_gb": None, "seconds": None}
        for name in ("reload_in_process", "reload_process")
        if name not in done
    ]
    result = {
        "version": EXPLAIN_VERSION,
        "step": step,
        "grows": True,
        "mb_per_step": rates.total / MB,
        "confidence": CONFIDENCE,
        "kinds": [{"kind": name, "mb_per_step": kinds[name] / MB} for name in KINDS],
        "kind": kind,
        "holder": found.holder,
        "holders": [dict(row) for row in found.what],
        "remedies": rows,
        "remedy": remedy,
        "remedy_is": "measured" if tried else "expected",
    }
    if found.signatures:
        result["signatures"] = dict(found.signatures)
    if found.chain is not None:
        result["chain_operations"] = found.chain
    return result | {"advice": advice_on(result, found.root, found.container)}


def _reachable(found: Found) -> Found:
    """What looked like a cycle without a root, where the collector freed nothing."""
    if found.root != "cycle":
        return found
    return replace(found, root="object", holder=(found.holder or "").removeprefix("unreachable "))


def works(measured: Measured, kind: str, grown: float) -> bool:
    """Whether a remedy gave back half of what has grown, of the kind that grows.

    Clearing the cache always frees some, and trimming the heap gives the process's own slack back:
    neither counts as an end of what grows elsewhere.
    """
    freed = {"cache": measured.cache, "active": measured.active, "lazy_graph": measured.active}
    return freed.get(kind, 0) >= HALF * grown > 0


def expected_remedy(kind: str, root: str | None) -> str:
    """The cheapest remedy that should work, by what holds the memory; not measured."""
    if kind == "cache":
        return "clear_cache"
    if root == "cycle":
        return "collect"
    if root in ("session", "compiled") or (root is None and kind in ("lazy_graph", "active")):
        return "reload_in_process"
    return "reload_process"


# --- Read again ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """An ``explain.json`` as far as it can be read; what is missing or of another type is empty.

    Attributes:
        step: the step that it was made at; None for one made from a finished run's curve.
        kinds: MB a step of each kind.
        remedies: name, GB given back and seconds, the last two None where they were not measured.
        finding: of a run without growth, one sentence; empty where nothing tells how sure it is.
        copied: the copy that they were measured in; None where it was the run itself.
    """

    step: int | None = None
    grows: bool = False
    mb_per_step: float | None = None
    confidence: float | None = None
    kinds: Mapping[str, float] = field(default_factory=dict)
    kind: str = ""
    holder: str = ""
    remedies: Sequence[tuple[str, float | None, float | None]] = ()
    remedy: str = ""
    measured: bool = False
    copied: Copied | None = None
    what: Sequence[str] = ()
    finding: str = ""
    advice: str = ""

    @property
    def sole_remedy(self) -> Rung | None:
        """The remedy, where most of what grows is of the kind that it gives back."""
        rate, total = self.kinds.get(self.kind, 0.0), sum(self.kinds.values())
        is_most = rate > 0 and rate >= MOST * total
        return next((rung for rung in RUNGS if is_most and rung == self.remedy), None)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Self:
        """Take what is well-formed from the content of a file that anybody may have written."""
        step, kind, remedy = (found.get(key) for key in ("step", "kind", "remedy"))
        return cls(
            step=step if type(step) is int else None,
            grows=found.get("grows") is True,
            mb_per_step=_number(found.get("mb_per_step")),
            confidence=_number(found.get("confidence")),
            kinds=dict(_kinds(found.get("kinds"))),
            kind=kind if kind in KINDS else "",
            holder=_text(found.get("holder")),
            remedies=list(_remedies(found.get("remedies"))),
            remedy=remedy if remedy in REMEDIES else "",
            measured=found.get("remedy_is") == "measured",
            copied=Copied.of(found.get("copy")),
            what=list(_what(found.get("holders"))),
            finding=_text(found.get("finding")),
            advice=_text(found.get("advice")),
        )


def read_explanation(run_dir: Path) -> Explanation | None:
    """The explanation in a run's folder; None where there is none.

    Raises:
        ConfigError: it cannot be read, or is of another version.
    """
    content = read_content(run_dir)
    return None if content is None else Explanation.of(content)


def read_content(run_dir: Path) -> dict[str, Any] | None:
    """The content of a run's ``explain.json``, written by anybody; None where there is none.

    Raises:
        ConfigError: it cannot be read, or is of another version.
    """
    path = run_dir / EXPLAIN_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError("run", path, f"cannot be read: {why_unreadable(error)}") from error
    version = found.get("version") if isinstance(found, dict) else None
    if version != EXPLAIN_VERSION:
        shown = _text(str(version))
        raise ConfigError("run", path, f"is of version {shown}, this lab reads {EXPLAIN_VERSION}")
    return found


def explain_figures(run_dir: Path) -> dict[str, Any]:
    """What a tracker's summary says of a run's explanation; empty where there is none."""
    try:
        found = read_explanation(run_dir)
    except ConfigError:
        return {}
    names = ("kind", "holder", "remedy", "mb_per_step", "advice")
    return {} if found is None else {f"explain/{name}": getattr(found, name) for name in names}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < sys.float_info.max else None


def _text(value: object) -> str:
    """Text on one line, without what could move a terminal's cursor, and not endless."""
    if not isinstance(value, str):
        return ""
    line = "".join(c if c.isprintable() else " " for c in value)
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _rows(value: object) -> Iterator[Mapping[str, Any]]:
    rows = value[:MOST_ROWS] if isinstance(value, list) else []
    return (row for row in rows if isinstance(row, dict))


def _kinds(value: object) -> Iterator[tuple[str, float]]:
    for row in _rows(value):
        kind, rate = row.get("kind"), _number(row.get("mb_per_step"))
        if kind in KINDS and rate is not None:
            yield kind, rate


def _remedies(value: object) -> Iterator[tuple[str, float | None, float | None]]:
    for row in _rows(value):
        if (remedy := row.get("remedy")) in REMEDIES:
            yield remedy, _number(row.get("freed_gb")), _number(row.get("seconds"))


def _what(value: object) -> Iterator[str]:
    """Each thing that is held, in words: ``array [4, 8] float32, count 12, more 6``."""
    for row in _rows(value):
        parts = []
        for key, item in row.items():
            shown = f"{item:.4g}" if isinstance(item, float) else _text(str(item))
            parts.append(f"{_text(key)} {shown}")
        yield ", ".join(parts)
