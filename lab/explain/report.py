"""An explanation in words: one line while the run goes on, a few lines for ``lab explain``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lab.config.schema import ConfigError
from lab.explain.explanation import Explanation, read_explanation

SAYS = {
    "active": "arrays",
    "cache": "MLX's cache",
    "lazy_graph": "lazy graphs",
    "compile_cache": "traces of compiled functions",
    "python": "Python objects",
    "native": "heap outside MLX and Python",
    "other": "memory outside MLX, Python and the heap",
}


def headline(found: Explanation) -> str:
    """``memory grows by 1.0 MB a step: arrays in lab...history[7]; remedy reload_in_process``."""
    if not found.grows:
        return found.finding or "memory does not grow"
    of_kind = found.kinds.get(found.kind, found.mb_per_step)  # what is told, not all beside it
    rate = "" if of_kind is None else f" by {of_kind:.2g} MB a step"
    where = f" in {found.holder}" if found.holder else ""
    remedy = f"; remedy {found.remedy}" if found.remedy else ""
    return f"memory grows{rate}: {SAYS.get(found.kind, 'unknown')}{where}{remedy}"


def growth_note(run_dir: Path) -> str:
    """The headline of a run whose ``explain.json`` says that it grows; else empty."""
    try:
        found = read_explanation(run_dir)
    except ConfigError:
        return ""
    return headline(found) if found is not None and found.grows else ""


def lines(found: Explanation) -> Iterator[str]:
    """All of it, aligned, one thing a line."""
    yield headline(found)
    told = found.kind  # first, even where what warms up is faster than what is certain to grow
    for kind, rate in sorted(found.kinds.items(), key=lambda item: (item[0] != told, -item[1])):
        if abs(rate) >= 0.0005:
            yield _line("kind", f"{kind:<14} {rate:8.3f} MB a step")
    if found.holder:
        yield _line("holder", found.holder)
    for row in found.what:
        yield _line("held", row)
    is_before = found.remedy in [remedy for remedy, *_ in found.remedies]
    for remedy, freed, seconds in found.remedies:
        is_before = is_before and remedy != found.remedy
        if freed is None or seconds is None:
            how = "expected" if remedy == found.remedy else "not measured"
        else:
            how = f"{freed * 1024:8.2f} MB given back in {seconds:.3f} s"
            how += ", too little of what grows" if freed > 0 and is_before else ""
        yield _line("remedy", f"{remedy:<18} {how}")
    if (copied := found.copied) is not None:
        where = f"a copy from step {copied.from_step} on"
        grown = f"{copied.grown_gb * 1024:.2f} MB grew in {copied.steps} steps"
        yield _line("measured", f"in {where}, where {grown}")
        if copied.expected not in ("", found.remedy):
            yield _line("expected", f"{copied.expected}, before it was measured")
    if found.step is not None:
        sure = "" if found.confidence is None else f", {found.confidence:.3g} sure that it grows"
        yield _line("seen", f"after step {found.step}{sure}")
    yield _line("advice", found.advice)


def _line(name: str, text: str) -> str:
    return f"  {name:<8} {text}" if text else f"  {name}"
