"""Format figures and names for the console, the page and the reports."""

from __future__ import annotations

from collections.abc import Sequence

from lab.config.units import GB, MB

# One word for one figure, wherever it is shown.
MEMORY_WORDS = {
    "process": "process",
    "mlx": "MLX",
    "active": "MLX active",
    "cache": "MLX cache",
    "peak": "MLX within steps",
}


def number(value: object, form: str) -> str:
    """Format a number; ``-`` for anything else."""
    return format(value, form) if isinstance(value, int | float) else "-"


def size(gb: object) -> str:
    """Format GB so that growth by 1 MB shows: MB below 1 GB, else three decimals; ``-`` if none."""
    if not isinstance(gb, int | float):
        return "-"
    if gb >= 1:
        return f"{gb:.3f} GB"
    mb = gb * GB / MB
    return f"{mb:.0f} MB" if mb >= 10 else f"{mb:.1f} MB"


def limit(gb: float) -> str:
    """Format GB that were set and do not grow: ``16 GB``, ``12.52 GB``, ``512 MB``."""
    return f"{gb:.4g} GB" if gb >= 1 else size(gb)


def change(before_gb: object, after_gb: object) -> str:
    """Format two figures in GB as ``1.500 -> 0.750 GB``, both in the unit of the larger one."""
    figures = (before_gb, after_gb)
    largest = max((gb for gb in figures if isinstance(gb, int | float)), default=1.0)
    unit, scale, form = ("GB", 1.0, ".3f") if largest >= 1 else ("MB", GB / MB, ".0f")
    scaled = (gb * scale if isinstance(gb, int | float) else None for gb in figures)
    return " -> ".join(number(value, form) for value in scaled) + f" {unit}"


def part_of(gb: object, whole_gb: float) -> str:
    """Format a figure and its limit: ``1.254/18.8 GB``, ``82/512 MB``, ``461 MB/18.8 GB``."""
    part, whole = size(gb), f"{whole_gb:.1f} GB" if whole_gb >= 1 else size(whole_gb)
    return f"{part.removesuffix(whole[-3:])}/{whole}"


def amount(count: int) -> str:
    """Format a count of parameters: ``125,248``, ``134.5 million``, ``8.03 billion``."""
    if count < 10_000_000:
        return f"{count:,}"
    return f"{count / 1e6:.1f} million" if count < 1e9 else f"{count / 1e9:.2f} billion"


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
