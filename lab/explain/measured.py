"""Remedies measured in a copy of a run: how ``explain.json`` has them, and which one they make it.

Pure functions; the copy is run by :mod:`lab.reproduce.measure`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from lab.config.units import GB

HALF = 0.5  # of what has grown, which a remedy that works gives back
UNTIL_THEN = "; until then "
GIVES_BACK = {
    "clear_cache": "memory.cache_clear_interval=10 gives it back",
    "collect": "gc.collect() gives it back, which reload=adaptive calls",
    "reload_in_process": "reload=interval gives it back",
    "reload_process": "reload=interval reload.method=process gives it back",
    "none": "nothing gives half of it back, a new process neither",
}
FIGURES = {"cache": "cache", "active": "active", "lazy_graph": "active"}  # else the process


@dataclass(frozen=True)
class Change:
    """By how many bytes memory changed between two readings of one run."""

    process: float
    active: float
    cache: float

    @classmethod
    def between(cls, before: Mapping[str, Any], after: Mapping[str, Any]) -> Self:
        """How much more the first reading is, by its logged keys; 0 where one was not read."""

        def less(name: str) -> float:
            first, second = before.get(f"memory/{name}_gb"), after.get(f"memory/{name}_gb")
            if not isinstance(first, float) or not isinstance(second, float):
                return 0.0
            return (first - second) * GB

        return cls(less("process"), less("active"), less("cache"))

    def of(self, kind: str) -> float:
        """The figure that tells of a kind of memory."""
        return getattr(self, FIGURES.get(kind, "process"))

    @property
    def largest(self) -> float:
        return max(self.process, self.active + self.cache, 0.0)


@dataclass(frozen=True)
class Tried:
    """A remedy that was taken: memory by which it was less than before all of them, and seconds."""

    remedy: str
    freed: Change
    seconds: float

    def row(self) -> dict[str, Any]:
        return {
            "remedy": self.remedy,
            "freed_gb": self.freed.largest / GB,
            "seconds": self.seconds,
            "measured": True,
        }


@dataclass(frozen=True)
class Copied:
    """What ``explain.json`` says of the copy that its remedies were measured in.

    Attributes:
        from_step: the step of the checkpoint that it went on from; 0: from the beginning.
        steps: between the reading that growth is counted from and the first remedy.
        expected: the remedy before it was measured.
    """

    from_step: int
    steps: int
    grown_gb: float
    expected: str

    @classmethod
    def of(cls, value: object) -> Self | None:
        """Read again what anybody may have written."""
        found = value if isinstance(value, dict) else {}
        start, steps, grown, expected = (found.get(key) for key in cls.__dataclass_fields__)
        if type(start) is not int or type(steps) is not int or type(grown) is not float:
            return None
        return cls(start, steps, grown, expected if expected in list(GIVES_BACK) else "")


def cheapest(tried: Sequence[Tried], kind: str, grown: Change) -> str:
    """The first remedy, they get dearer, that gave back half of what had grown of a kind."""
    least = HALF * grown.of(kind)
    return next((one.remedy for one in tried if one.freed.of(kind) >= least), "none")


def with_measured(
    content: Mapping[str, Any], tried: Sequence[Tried], grown: Change, *, start: int, steps: int
) -> dict[str, Any]:
    """The content of ``explain.json`` with the remedies that a copy measured.

    Arguments:
        content: the explanation so far, perhaps of an earlier copy.
    """
    earlier = Copied.of(content.get("copy"))
    expected = earlier.expected if earlier else str(content.get("remedy"))
    remedy = cheapest(tried, str(content.get("kind")), grown)
    advice = str(content.get("advice") or "").partition(UNTIL_THEN)[0]
    if remedy != expected or remedy not in ("clear_cache", "collect"):  # else it says so itself
        advice += UNTIL_THEN + GIVES_BACK[remedy]
    return {
        **content,
        "remedies": [one.row() for one in tried],
        "remedy": remedy,
        "remedy_is": "measured",
        "copy": asdict(Copied(start, steps, grown.largest / GB, expected)),
        "advice": advice,
    }
