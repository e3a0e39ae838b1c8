"""Figures as a person reads them."""

from __future__ import annotations


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
