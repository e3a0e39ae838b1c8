"""The colour of each run and the dashes of each line, the same on the page and in the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lab.compare.comparison import Comparison
from lab.plots.style import MUTED

FEW = ("#1864ab", "#e8590c", "#2b8a3e", "#5f3dc4", "#c92a2a", "#0b7285", "#a61e4d", "#846358")
DASHES = ("solid", "dash", "dot", "dashdot")  # as plotly names them
BY_RUN = "run"
MANY = 12  # lines; more get thin lines without dashes


@dataclass(frozen=True)
class Palette:
    """One colour for each run.

    Attributes:
        by: the setting that decides, or ``run``.
        colours: one for each entry of the comparison, in its order.
        scale: the values of a numeric setting in order, with their colours; else empty.
    """

    by: str
    colours: tuple[str, ...]
    scale: tuple[tuple[float, str], ...] = ()


def palettes(comparison: Comparison) -> list[Palette]:
    """The palettes to choose from; reload and memory settings first, one colour a run last."""
    keys = sorted(comparison.told_by, key=lambda key: not key.startswith(("reload.", "memory.")))
    return [
        *(_by_setting(comparison, key) for key in keys),
        _by_line(comparison),
    ]


def _by_line(comparison: Comparison) -> Palette:
    """A colour for each line, whose runs share it."""
    of_runs = dict[int, str]()
    for line, colour in zip(comparison.lines, _distinct(len(comparison.lines)), strict=True):
        of_runs |= {id(entry): colour for entry in line.entries}
    return Palette(BY_RUN, tuple(of_runs[id(entry)] for entry in comparison.entries))


def _by_setting(comparison: Comparison, key: str) -> Palette:
    """Three or more distinct numbers get a scale in even steps, other values a colour each."""
    values = [entry.run.settings.get(key) for entry in comparison.entries]
    known = [value for value in values if value is not None]
    numbers = sorted({float(v) for v in known if _is_number(v)})
    if len(numbers) >= 3 and all(map(_is_number, known)):
        scale = dict(zip(numbers, _sampled("viridis", len(numbers), 0.0, 0.78), strict=True))
        colours = tuple(MUTED if v is None else scale[float(v)] for v in values)
        return Palette(key, colours, tuple(scale.items()))
    texts = [str(value) for value in values]
    order = list(dict.fromkeys(texts))
    by_text = dict(zip(order, _distinct(len(order)), strict=True))
    return Palette(key, tuple(by_text[text] for text in texts))


def _distinct(count: int) -> Sequence[str]:
    return FEW[:count] if count <= len(FEW) else _sampled("turbo", count, 0.06, 0.94)


def dashes(comparison: Comparison) -> list[str]:
    """Dash styles of at most ``MANY`` lines, by a setting that does not colour them already."""
    firsts = [line.entries[0] for line in comparison.lines]
    for key in comparison.told_by if len(firsts) <= MANY else ():
        values = [str(entry.run.settings.get(key)) for entry in firsts]
        order = list(dict.fromkeys(values))
        if 1 < len(order) <= len(DASHES) and key != palettes(comparison)[0].by:
            return [DASHES[order.index(value)] for value in values]
    return [DASHES[0]] * len(firsts)


def _sampled(name: str, count: int, low: float, high: float) -> Sequence[str]:
    """Evenly spaced colours of one of matplotlib's colour maps between ``low`` and ``high``."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    step = (high - low) / max(1, count - 1)
    return [to_hex(colormaps[name](low + i * step)) for i in range(count)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
