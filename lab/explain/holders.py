"""Who holds an object: the path from a root down to it, found through Python's garbage collector.

From a sample of what has grown the search goes upward, one ``gc.get_referrers`` a level for all of
them together, until most of the sample hangs on roots. The root that holds the most of it is the
holder. Nothing is evaluated and no code of the user is run; what the search makes itself it does
not find, and after it nothing is held any more.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import FrameType, GeneratorType, ModuleType, TracebackType
from typing import Any

from lab.explain.paths import container_text, path_text, type_name

MOST_LEVELS = 24  # a path longer than that nobody would read
LEAST_SHARE = 0.25  # of the sample, whose roots must be known
WIDEST = 48  # objects looked up at once; each is compared with every reference of the process


@dataclass(frozen=True)
class Holder:
    """What holds a sample of objects.

    Attributes:
        path: from the root down to one of them, as it would be typed where that is possible.
        root: what kind of root it is: ``session`` ``module`` ``class`` ``object`` (held by running
            code or by another library) or ``cycle`` (nothing but itself holds it).
        share: part of the sample that hangs on this root.
        container: the path to the list, dict, set or queue on the way that takes them in.
    """

    path: str
    root: str
    share: float
    container: str | None = None


def find_holder(
    sample: Sequence[object],
    session: object,
    *,
    ignore: Iterable[object] = (),
    seconds: float = 0.5,
) -> Holder | None:
    """The root that holds most of a sample, and the path from it to one of its objects.

    Arguments:
        session: the training session, a root of its own: a reload in process drops it.
        ignore: containers of the caller, which hold the sample too.
        seconds: of the processor, after which the search ends with what it has found.

    Returns:
        None where nothing that Python can see holds them: a local variable of a running function,
        or code that is not Python's; and where the time was over too soon.
    """
    search = _Search(sample, session, ignore)
    try:
        return search.run(time.thread_time() + seconds)
    finally:
        search.clear()


class _Search:
    """One search upward. ``known`` holds every object seen; all else refers to them by ``id``."""

    def __init__(self, sample: Sequence[object], session: object, ignore: Iterable[object]) -> None:
        self.known: dict[int, Any] = {id(item): item for item in sample}
        self.down: dict[int, list[int]] = {}  # from an object to those below it
        self.mask = {key: 1 << bit for bit, key in enumerate(self.known)}
        self.count = len(self.known)
        self.roots: dict[int, str] = {}  # what kind of root an object is
        self.session = session
        self.modules = _module_dicts()
        self.ignored = {id(container) for container in (*ignore, sample, self.known, self.__dict__)}
        self.ignored |= {id(self), id(self.modules), id(self.roots)}

    def clear(self) -> None:
        self.known.clear()
        self.session = None

    def run(self, deadline: float) -> Holder | None:
        frontier = list(self.known)
        for _ in range(MOST_LEVELS):
            frontier = self._level(frontier)
            if not frontier or time.thread_time() > deadline or self._covered() * 2 > self.count:
                break
        if not frontier and self._covered() * 2 < self.count:
            return self._cycle()
        if self._covered() < LEAST_SHARE * self.count or not self.roots:
            return None  # the search was cut off, and what it met on the way tells little
        root, kind = max(self.roots.items(), key=lambda item: _ones(self.mask[item[0]]))
        share = _ones(self.mask[root]) / self.count
        start, chain = self._way(root, kind)
        path = path_text(start, chain, kind=kind)
        return Holder(path, kind, share, container_text(start, chain, kind=kind))

    def _level(self, frontier: list[int]) -> list[int]:
        """The objects that refer to those of the frontier, roots left out."""
        wanted = set(frontier[:WIDEST])
        parents: list[int] = []
        held: set[int] = set()
        referrers = gc.get_referrers(*(self.known[key] for key in wanted))
        self.ignored |= {id(referrers), id(frontier), id(wanted), id(parents), id(held)}
        for parent in referrers:
            if id(parent) in self.ignored or _is_running(parent):
                continue
            for child in {id(item) for item in gc.get_referents(parent)} & wanted:
                held.add(child)
                self._link(parent, child, parents)
        del referrers
        for key in wanted - held:
            if key in self.down:  # nothing Python can see holds it, though it holds the sample
                self.roots.setdefault(key, "object")
        return parents

    def _link(self, parent: Any, child: int, parents: list[int]) -> None:
        key = id(parent)
        if key in self.known:
            if key in self.roots or key in parents:
                self.mask[key] |= self.mask[child]
                self.down[key].append(child)
            return
        self.known[key], self.down[key], self.mask[key] = parent, [child], self.mask[child]
        kind = self._root_kind(parent)
        if kind is None:
            parents.append(key)
        else:
            self.roots[key] = kind

    def _root_kind(self, item: Any) -> str | None:
        if item is self.session:
            return "session"
        if id(item) in self.modules or isinstance(item, ModuleType):
            return "module"
        return "class" if isinstance(item, type) else None

    def _covered(self) -> int:
        together = 0
        for root in self.roots:
            together |= self.mask[root]
        return _ones(together)

    def _way(self, root: int, kind: str) -> tuple[str, list[Any]]:
        """The root's name, and the objects from it down to one of the sample."""
        chain = [self.known[root]]
        key = root
        while key in self.down:
            key = max(self.down[key], key=lambda child: _ones(self.mask[child]))
            chain.append(self.known[key])
        start = self.modules.get(root) or type_name(chain[0])
        if kind == "object" and type(chain[0]) in (dict, list, tuple, set):
            start += " of a running function"
        return start, chain

    def _cycle(self) -> Holder | None:
        """A reference cycle: everything that was seen is held by what was seen, and by no root."""
        plain = (dict, list, tuple, set, FrameType, TracebackType)
        above = [self.known[key] for key in self.down if key not in self.roots]
        named = [type_name(item) for item in above if not isinstance(item, plain)]
        if not above:
            return None
        most = max(named, key=named.count) if named else type_name(above[0])
        return Holder(f"unreachable cycle of {most}", "cycle", 1 - self._covered() / self.count)


def _ones(mask: int) -> int:
    return mask.bit_count()


def _is_running(item: object) -> bool:
    """Whether it is a frame or generator at work: the search's own, or one that waits for it."""
    return isinstance(item, GeneratorType) and item.gi_running


def _module_dicts() -> dict[int, str]:
    """The names of all modules by the ``id`` of their dict."""
    modules = [(name, m) for name, m in list(sys.modules.items()) if isinstance(m, ModuleType)]
    return {id(m.__dict__): name for name, m in reversed(modules)}
