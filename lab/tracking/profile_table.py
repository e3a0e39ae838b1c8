"""A profile on the terminal: the phases of a step, and under its forward pass the modules."""

from __future__ import annotations

from collections.abc import Iterator

from lab.config.units import MB
from lab.records.profile import Part, Profile

GAP = "  "
OF_MODULES = "  of modules: kept by all of a kind, peak of one"
HEADS = ("ms", "share", "kept MB", "peak MB")


def profile_table(profile: Profile) -> str:
    """The table, and how much slower than training the measuring was."""
    first, last = profile.steps
    title = f"profile of step {first}" if first == last else f"profile of steps {first} to {last}"
    rows = [(title, *HEADS), *_rows(profile)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        GAP.join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])])
        for name, *cells in rows
    ]
    notes = [OF_MODULES] if profile.modules else []
    return "\n".join(
        [*(line.rstrip() for line in lines), *notes, f"  {'; '.join(profile.slowness())}"]
    )


def _rows(profile: Profile) -> Iterator[tuple[str, ...]]:
    whole = profile.seconds
    for part in profile.phases:
        yield _row(part.name, part, whole)
        if part.name == "forward, loss":
            yield from (_row(f"  {module.name}", module, whole) for module in profile.modules)
    for part in profile.sometimes:
        yield _row(f"{part.name} x{part.times}", part, None)


def _row(name: str, part: Part, whole: float | None) -> tuple[str, ...]:
    share = "" if whole is None else f"{part.seconds / whole:.1%}"
    sizes = ("" if size is None else f"{size / MB:,.1f}" for size in (part.kept, part.peak))
    return (f"  {name}", f"{part.seconds * 1e3:,.2f}", share, *sizes)
