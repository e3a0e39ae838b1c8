"""Format figures and names for the console, the page and the reports."""

from __future__ import annotations

from collections.abc import Sequence


def number(value: object, form: str) -> str:
    """Format a number; ``-`` for anything else."""
    return format(value, form) if isinstance(value, int | float) else "-"


def duration(seconds: float | None) -> str:
    """Format seconds as ``0:32`` or ``1:02:03``; ``-:--`` for None."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def short_names(keys: Sequence[str]) -> list[str]:
    """The last part of each dotted key; the whole key where that is not unique."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for name, key in zip(last, keys, strict=True)]


def clean(text: str) -> str:
    """Replace characters that are not printable: control codes, bidirectional overrides."""
    if text.isprintable():  # as most are
        return text
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
