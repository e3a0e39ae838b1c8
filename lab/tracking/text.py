"""Figures as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence


def number(value: object, form: str) -> str:
    """A figure in a format, or a dash where there is none."""
    return format(value, form) if isinstance(value, int | float) else "-"


def duration(seconds: float | None) -> str:
    """``0:32``, ``1:02:03``, or dashes while nobody knows."""
    if seconds is None:
        return "-:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def short_names(keys: Sequence[str]) -> list[str]:
    """The last part of each key, where that tells them apart."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for name, key in zip(last, keys, strict=True)]


def clean(text: str) -> str:
    """The text without what would move a terminal's cursor or turn its letters around."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
