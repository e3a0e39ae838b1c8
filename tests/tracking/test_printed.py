"""Tables and sentences on the console: whole in a file, in a terminal by its width."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.tracking.printed import NARROWEST, Column, fitted, print_table, print_words, width_of

TABLE = (
    Column("run", ["0", "1"], right=True),
    Column("interval_steps", ["10", "25"]),
    Column("peak GB, process", ["0.141", "0.092"], right=True, short="peak GB"),
    Column("reloads", ["5 interval", "0"], right=True, short_cells=["5", "0"]),
    Column("overhead", ["4.6%", "0.1%"], right=True, rank=1),
    Column("tokens/s", ["7,717", "9,359"], right=True, rank=2),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(monkeypatch: pytest.MonkeyPatch, width: int, out: io.StringIO) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "dumb")  # without colours
    monkeypatch.setattr(sys, "stdout", out)
    print_table(TABLE)
    print_words("note", "one of the runs has no rows that can be read: it is left out")
    return out.getvalue().splitlines()


def test_a_wide_terminal_and_a_pipe_have_all_of_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [
        "run  interval_steps  peak GB, process     reloads  overhead  tokens/s",
        "  0  10                         0.141  5 interval      4.6%     7,717",
        "  1  25                         0.092           0      0.1%     9,359",
        "note     one of the runs has no rows that can be read: it is left out",
    ]
    assert printed(monkeypatch, 160, Terminal()) == whole
    assert printed(monkeypatch, 40, io.StringIO()) == whole


def test_a_narrow_terminal_has_a_line_for_each_row_and_is_told_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert printed(monkeypatch, 50, Terminal()) == [
        "run  interval_steps  peak GB  reloads  overhead",
        "  0  10                0.141        5      4.6%",
        "  1  25                0.092        0      0.1%",
        "hidden   tokens/s: a wider terminal shows more",
        "note     one of the runs has no rows that can be",
        "         read: it is left out",
    ]


texts = st.text(st.characters(categories=["L", "N"]), max_size=30)


@given(
    st.lists(
        st.builds(
            Column,
            head=texts,
            cells=st.lists(texts, min_size=3, max_size=3),
            short=texts,
            rank=st.integers(0, 3),
            least=st.sampled_from([0, 12]),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 200),
)
def test_a_table_goes_into_a_width_and_keeps_what_names_its_rows(
    columns: list[Column], width: int
) -> None:
    shown = fitted(columns, width)
    must = [column for column in columns if column.rank == 0]
    assert [column.rank for column in shown if column.rank == 0] == [0] * len(must)
    if width_of(columns) <= width:
        assert shown == columns
    elif width_of(shown) > width:
        assert all(column.width <= NARROWEST for column in shown)


def test_a_long_name_is_cut_before_a_figure_is_left_out() -> None:
    name = Column("name", ["a" * 50, "b" * 50], least=12)
    figures = [Column("loss", ["2.5", "2.4"], rank=2), Column("time", ["0:12", "0:13"], rank=1)]
    shown = fitted([name, *figures], 26)
    assert [column.head for column in shown] == ["name", "loss", "time"]
    assert shown[0].width == 14
    assert [column.head for column in fitted([name, *figures], 20)] == ["name", "time"]


def test_a_cell_that_has_to_be_cut_keeps_both_ends() -> None:
    paths = Column("folder", [f"outputs/runs/{'x' * 80}/{n}.jsonl" for n in range(3)])
    [shown] = fitted([paths], 30)
    assert len(set(shown.cells)) == 3
    assert shown.cells[1].startswith("outputs/runs/x")
    assert shown.cells[1].endswith("x/1.jsonl")
    assert shown.width == 30
