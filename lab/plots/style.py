"""Colours and axes style shared by memory.png, compare.png and the comparison page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"


def plain(axes: Axes) -> None:
    """Style axes plainly: no frame, no ticks, pale horizontal grid lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(colors=MUTED, labelsize=8, length=0)
    axes.grid(visible=True, axis="y", color=GRID, lw=0.7)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    axes.locator_params(axis="x", integer=True)


def titled(axes: Axes, title: str, x: str, y: str) -> None:
    """Style axes plainly, with a title and what lies along each."""
    plain(axes)
    axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
    axes.set_xlabel(x, fontsize=8.5)
    axes.set_ylabel(y, fontsize=8.5)
