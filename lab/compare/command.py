"""``lab compare``: runs side by side, as a page, a picture and a table."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.catalog.find import find_runs
from lab.compare.advice import advice
from lab.compare.comparison import Comparison, compare, format_setting
from lab.compare.figure import draw
from lab.compare.page import render
from lab.compare.read import Run, read_run
from lab.compare.table import BEGAN, PEAK, TEST, Row, heads, rows_of
from lab.config.schema import ConfigError
from lab.records.replace import check_replaceable, is_marked, replacing
from lab.tracking.closing import relative
from lab.tracking.printed import LEAST_NAME, Column, print_table, print_words
from lab.tracking.text import MEMORY_WORDS, short_names

if TYPE_CHECKING:
    from polars import DataFrame

COMBINED_FOLDER = Path("outputs/compare")  # where runs of several folders are compared
MARKED = ("compare.html", "compare.png")
DISPLAYS = (
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "BROWSER",
)  # variables; without, it would be a text browser
TABLE_COLUMNS = ("run", "name", "folder", "loss_curve")  # the first three, and the last
TERMINAL_SETTINGS = 4  # columns of the printed table
TERMINAL_NOTES = 20  # printed lines


def compare_runs(folders: Sequence[Path], *, as_csv: bool = False, opens: bool = False) -> int:
    """Compare all runs in these folders: write a page, a picture and a table, print a table.

    The files go into the folder, or into ``outputs/compare`` if there are several.

    Arguments:
        as_csv: write ``compare.csv`` in place of ``compare.parquet``.
        opens: show the page in a browser.

    Returns:
        The exit code: 1 if a file could not be written.

    Raises:
        ConfigError: there is nothing to compare, or a file of the same name is somebody else's.
    """
    found = find_runs(folders)
    folder, title = folders[0], folders[0].resolve().name
    if len(folders) > 1:
        folder, title = COMBINED_FOLDER, f"{len(found.locations)} runs of {len(folders)} folders"
    table_name = "compare.csv" if as_csv else "compare.parquet"
    for name, is_own in (*((n, is_marked) for n in MARKED), (table_name, is_own_table)):
        check_replaceable(folder / name, is_own)
    made = datetime.now().astimezone()
    runs = [read_run(location) for location in found.locations]
    if not any(run.settings or len(run.columns) or run.state == "running" for run in runs):
        raise ConfigError("folder", folders[0], f"holds no run that can be read: {_why(runs[0])}")
    comparison = compare(runs, title=title, notes=found.notes)
    table = table_of(comparison)
    writers: dict[str, Callable[[Path], Any]] = {
        "compare.html": lambda path: path.write_text(
            render(comparison, folder=folder, made=made), encoding="utf-8"
        ),
        "compare.png": lambda path: draw(comparison, path),
        table_name: table.write_csv if as_csv else table.write_parquet,
    }
    problem = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder) as new:
            for name, write in writers.items():
                write(new / name)
    except OSError as error:
        problem = f"cannot write to {folder}: {error.strerror or error}"
    _print_comparison(comparison)  # after the files: the reader of a pipe may leave early
    if problem:
        print(problem, file=sys.stderr)
        return 1
    for name in writers:
        print(f"{name.rpartition('.')[2]:<8} {relative(folder / name)}")
    if opens and not open_in_browser(folder / "compare.html"):
        print("open     there is no browser or display here; open the page yourself")
    return 0


def _why(run: Run) -> str:
    return "; ".join(run.problems)


def open_in_browser(page: Path) -> bool:
    """Show a page in a window of the user's browser; whether there is one."""
    has_display = sys.platform != "linux" or any(map(os.environ.get, DISPLAYS))
    return has_display and webbrowser.open(page.resolve().as_uri())


# --- As a table ---------------------------------------------------------------------------------


def table_of(comparison: Comparison) -> DataFrame:
    """The table of ``compare.parquet``: one row a run, its settings and its figures."""
    import polars as pl

    entries = comparison.entries
    reasons = sorted({reason for e in entries for reason in e.run.figures.reloads})
    rungs = sorted({rung for e in entries for rung in e.run.figures.remedies})
    growth = [entry.run.growth for entry in entries] if comparison.is_explained else []
    columns: dict[str, Sequence[Any]] = {
        "run": [entry.number for entry in entries],
        "name": [entry.run.name for entry in entries],
        "folder": [relative(entry.run.folder) for entry in entries],
        **{key: _column([e.run.settings.get(key) for e in entries]) for key in comparison.keys},
        "state": [entry.run.state for entry in entries],
        **{
            figure: [getattr(entry.run.figures, figure) for entry in entries]
            for figure in (
                "steps", "final_loss", "tokens_per_second", "peak_process_gb", "peak_mlx_gb",
                "mean_process_gb", "slope_mb_per_step", "overhead_fraction", "seconds",
            )
        },
        **(
            {"test_loss": [entry.run.figures.test_loss for entry in entries]}
            if comparison.is_tested
            else {}
        ),
        **{f"reloads/{r}": [e.run.figures.reloads.get(r, 0) for e in entries] for r in reasons},
        **{f"remedies/{r}": [e.run.figures.remedies.get(r, 0) for e in entries] for r in rungs},
        **{
            f"explain/{name}": [texts[i] for texts in growth]
            for i, name in enumerate(("kind", "holder", "remedy") if growth else ())
        },
        "loss_curve": [entry.loss_match for entry in entries],
    }  # fmt: skip
    return pl.DataFrame(columns)


def is_own_table(path: Path) -> bool:
    """Whether a ``.csv`` or ``.parquet`` file has the columns of a comparison."""
    import polars as pl

    scan = pl.scan_csv if path.suffix == ".csv" else pl.scan_parquet
    try:
        columns = scan(path).collect_schema().names()
    except (pl.exceptions.PolarsError, OSError):
        return False
    return (*columns[:3], *columns[-1:]) == TABLE_COLUMNS


def _column(values: list[Any]) -> list[Any]:
    """A column of one type: numbers or booleans where all are, else text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        return [v if v is None or kinds == {int} else float(v) for v in values]
    return values if kinds <= {bool} else [None if v is None else format_setting(v) for v in values]


# --- On the console -----------------------------------------------------------------------------


def _print_comparison(comparison: Comparison) -> None:
    print_table(_console_columns(comparison))
    print_words("choose", advice(comparison))
    for note in comparison.notes[:TERMINAL_NOTES]:
        print_words("note", note)
    if len(comparison.notes) > TERMINAL_NOTES:
        print_words("note", f"and {len(comparison.notes) - TERMINAL_NOTES} more, see the page")


def _console_columns(comparison: Comparison) -> list[Column]:
    """A row a line; the folder and the time of runs that no setting tells apart."""
    names = short_names(comparison.keys)[:TERMINAL_SETTINGS]
    count, rows = len(comparison.keys), _console_rows(comparison)
    word = MEMORY_WORDS[comparison.figure]
    peak, short_peak = f"{PEAK}, {word}", PEAK * (comparison.figure == "process")
    explained, twins = comparison.is_explained, comparison.has_twins
    columns = [head for head, _, _ in heads(comparison)][count:]

    def figure(name: str, rank: int, **more: Any) -> Column:
        cells = [row.cells[count + columns.index(name)].text for row in rows]
        return Column(name, cells, rank=rank, **more)

    at = count + columns.index("reloads")
    reloads = [f"{round(float(row.cells[at].order), 1):g}" for row in rows]
    folders = [row.folder for row in rows]
    return [
        Column("run", [row.name for row in rows], right=True),
        *(
            Column(name, [row.cells[i].text for row in rows], least=LEAST_NAME)
            for i, name in enumerate(names)
        ),
        figure("state", 3),
        figure("steps", 7, right=True),
        figure("final loss", 2, right=True, short="loss"),
        *([figure(TEST, 2, right=True)] if comparison.is_tested else ()),
        figure(peak, 0, right=True, short=short_peak),
        figure("reloads", 1, right=True, short_cells=reloads),
        figure("overhead", 1, right=True),
        figure("tokens/s", 8, right=True),
        figure("loss curve", 4),
        *([figure("what grows", 6), figure("its remedy", 9)] if explained else ()),
        *([Column("folder", folders, least=LEAST_NAME), figure(BEGAN, 5)] if twins else ()),
    ]


def _console_rows(comparison: Comparison) -> list[Row]:
    return [row for row in rows_of(comparison, Path()) if row.kind != "member"]
