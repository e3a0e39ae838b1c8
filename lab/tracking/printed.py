"""Tables and sentences on the console: whole in a file or a pipe, in a terminal by its width."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf

GAP = 2  # columns of the terminal between those of the table
HEAD = 8  # letters of the heading of a sentence
LEAST_NAME = 24  # letters that are enough of a name or a path
NARROWEST = 8  # letters that a cell keeps where it has to be cut


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        cells: a text for each row.
        right: whether it is flush right, as numbers are.
        short: its heading where the terminal is narrow; by default the same.
        short_cells: its cells there; by default the same.
        rank: of what a narrow terminal does without the highest goes first, all of one rank at
            once; 0 always stays.
        least: letters to which its cells may be cut before another column is left out, for names
            and paths; 0: only where nothing else helps.
    """

    head: str
    cells: Sequence[str]
    right: bool = False
    short: str = ""
    short_cells: Sequence[str] = ()
    rank: int = 0
    least: int = 0

    @property
    def width(self) -> int:
        from rich.cells import cell_len

        return max(map(cell_len, (self.head, *self.cells)))


def print_table(columns: Sequence[Column]) -> None:
    """Print a table with the width of the terminal; one that lacks columns says which."""
    from rich.console import Console
    from rich.table import Table

    width = terminal_width()
    shown = list(columns) if width is None else fitted(columns, width)
    table = Table(box=None, header_style="bold", padding=(0, GAP, 0, 0), pad_edge=False)
    for column in shown:
        table.add_column(column.head, justify="right" if column.right else "left", no_wrap=True)
    for row in zip(*(column.cells for column in shown), strict=True):
        table.add_row(*row)
    # Both are given: else rich takes 80 columns for a terminal that cannot move its cursor.
    console = Console(width=max(width or 0, width_of(shown)), height=1, markup=False, emoji=False)
    console.print(table, highlight=False)
    ranks = {column.rank for column in shown}
    hidden = [column.head for column in columns if column.rank not in ranks]
    if hidden:
        said = ", ".join(dict.fromkeys(filter(None, hidden)))
        print_words("hidden", f"{said}: a wider terminal shows more")


def print_words(head: str, text: str) -> None:
    """Print a sentence after its heading, as :func:`print_line`."""
    print_line(f"{head:<{HEAD}} {text}", indent=HEAD + 1)


def print_line(line: str, *, indent: int) -> None:
    """Print a line; in a terminal it is broken between words only, what follows indented."""
    width, broken = terminal_width(), [line]
    if width is not None:
        broken = textwrap.wrap(
            line,
            width,
            subsequent_indent=" " * indent,
            break_long_words=False,  # paths and commands
            break_on_hyphens=False,
        )
    print("\n".join(broken))


def terminal_width() -> int | None:
    """Letters in a line of the standard output; None where it is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fitted(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns as they go into a width: shortened, then without some, then with cut cells."""
    if width_of(columns) <= width:
        return list(columns)
    shown = [replace(c, head=c.short or c.head, cells=c.short_cells or c.cells) for c in columns]
    for rank in [inf, *sorted({column.rank for column in columns} - {0}, reverse=True)]:
        shown = [column for column in shown if column.rank != rank]
        cut = _cut_to(shown, width, lambda column: column.least or column.width)
        if width_of(cut) <= width:
            return cut
    return _cut_to(shown, width, lambda _: NARROWEST)


def _cut_to(columns: Sequence[Column], width: int, least: Callable[[Column], int]) -> list[Column]:
    """The columns with the widest cells cut until they fit, or none can be cut further."""
    floors = [least(column) for column in columns]
    shown = list(columns)
    while width_of(shown) > width:
        wide = [i for i, column in enumerate(shown) if column.width > floors[i]]
        if not wide:
            break
        widest = max(wide, key=lambda i: shown[i].width)
        shown[widest] = _cut(columns[widest], shown[widest].width - 1)
    return shown


def width_of(columns: Sequence[Column]) -> int:
    """Letters in a line of the table."""
    return sum(column.width for column in columns) + GAP * (len(columns) - 1)


def _cut(column: Column, width: int) -> Column:
    """Its texts within a width; of longer ones both ends stay, where names and paths differ."""

    from rich.cells import cell_len, set_cell_size

    def shortened(text: str) -> str:
        if cell_len(text) <= width:
            return text
        end = (width - 1) // 2
        tail = set_cell_size(text[::-1], end)[::-1]
        return f"{set_cell_size(text, width - 1 - end)}…{tail}"

    return replace(
        column, head=shortened(column.head), cells=[shortened(text) for text in column.cells]
    )
