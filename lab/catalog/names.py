"""From what is typed to the folder of a run or a sweep: every command takes the same words."""

from __future__ import annotations

import os.path
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from lab.catalog.cache import list_entries
from lab.catalog.entries import RESUMABLE, Entry, RunEntry, SweepEntry
from lab.config.schema import ConfigError
from lab.tracking.text import clean

OUTPUTS = Path("outputs")
SHOWN, LAST = 5, 3  # names in a message


def add_folder(parser: ArgumentParser, what: str = "of a run, or of a sweep") -> None:
    """Declare ``folder`` and ``--last``, for :func:`chosen`."""
    parser.add_argument("folder", nargs="?", help=f"{what}; or how its name begins")
    parser.add_argument("--last", action="store_true", help="the newest one instead, see `lab ls`")


def add_folders(parser: ArgumentParser, count: str, what: str) -> None:
    """Declare ``folders``, for :func:`folder_of`."""
    parser.add_argument(
        "folders", nargs=count, metavar="folder", help=f"{what}; or how their names begin"
    )


def any_entry(_: Entry) -> bool:
    return True


def is_run(entry: Entry) -> bool:
    """Whether it is one run, for what takes no sweep."""
    return isinstance(entry, RunEntry)


def is_resumable(entry: Entry) -> bool:
    """Whether ``lab resume`` has something to do."""
    if isinstance(entry, SweepEntry):
        return entry.state in ("interrupted", "failed")
    return entry.state in RESUMABLE


def chosen(word: str | None, *, last: bool, may: Callable[[Entry], bool] = any_entry) -> Path:
    """The folder that is meant; which one is told where it was not typed in full.

    Arguments:
        last: take the newest entry of ``lab ls`` that ``may`` allows.

    Raises:
        ConfigError: no folder or more than one is meant.
    """
    if word is None:
        if not last:
            raise ConfigError("folder", "", "is missing: give it, how its name begins, or --last")
        return newest(1, may)[0]
    if last:
        raise ConfigError("--last", word, "is a second folder; give one of them")
    return folder_of(word)


def chosen_first(
    word: str | None,
    more: Sequence[str],
    *,
    last: bool,
    may: Callable[[Entry], bool] = any_entry,
) -> tuple[Path, list[str]]:
    """The folder as :func:`chosen`, and the other words: with ``last`` all of them are others."""
    if last and word is not None:
        word, more = None, [word, *more]
    return chosen(word, last=last, may=may), list(more)


def newest(count: int, may: Callable[[Entry], bool] = any_entry) -> list[Path]:
    """The folders of the newest entries, the newest last; told on the standard error.

    Raises:
        ConfigError: there are none.
    """
    if count < 1:
        raise ConfigError("--last", count, "must be at least 1")
    found = [entry.folder for entry in list_entries(OUTPUTS) if may(entry)][-count:]
    if not found:
        named = {any_entry: "run or sweep", is_run: "run of its own"}
        what = named.get(may, "run or sweep that it could go on with")
        raise ConfigError("--last", "", f"no {what} is in {OUTPUTS}")
    return [_told(folder) for folder in found]


def folder_of(word: str) -> Path:
    """The folder that a word means.

    Arguments:
        word: a folder, a path of a ``config.yaml``, or how the name of one run or sweep in
            ``outputs`` begins: its folder's name or its own. A job is ``SWEEP/NUMBER``.

    Raises:
        ConfigError: it means none, or more than one.
    """
    if os.path.isdir(word):  # noqa: PTH112 - false for what can be no path, too
        return Path(word)
    if os.path.isfile(word):  # noqa: PTH113
        if Path(word).name == "config.yaml":
            return Path(word).parent
        raise ConfigError("folder", word, "there is no such folder, only a file")
    entries = list_entries(OUTPUTS)
    head, _, inside = word.partition("/")
    found = _matching(head, entries) if head else []
    if len(found) > 1:
        raise ConfigError("folder", word, _ambiguous(found))
    if found and (folder := found[0] / inside).is_dir():
        return _told(folder)
    raise ConfigError("folder", word, _unknown(head, entries))


def _told(folder: Path) -> Path:
    print(clean(str(folder)), file=sys.stderr)
    return folder


def _matching(word: str, entries: Sequence[Entry]) -> list[Path]:
    """The folders whose name is the word, else those whose name begins with it, newest first.

    A sweep stands for its jobs: they are left out where it is there.
    """
    names = list(_names(entries))
    exact = [folder for name, folder in names if name == word]
    found = dict.fromkeys(exact or [folder for name, folder in names if name.startswith(word)])
    return [folder for folder in reversed(found) if not found.keys() & set(folder.parents)]


def _names(entries: Sequence[Entry]) -> Iterator[tuple[str, Path]]:
    for entry in entries:
        yield entry.folder.name, entry.folder
        yield entry.name, entry.folder
        for job in entry.jobs if isinstance(entry, SweepEntry) else ():
            yield job.name, job.folder


def _ambiguous(found: Sequence[Path]) -> str:
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    listed = ", ".join(clean(str(folder)) for folder in found[:SHOWN])
    return f"so begin {len(found)} names: {listed}{more}"


def _unknown(word: str, entries: Sequence[Entry]) -> str:
    if not entries:
        return "there is no such folder"
    near = get_close_matches(word, dict.fromkeys(name for name, _ in _names(entries)))
    meant = f"; near: {clean(', '.join(near))}" if near else ""
    last = clean(", ".join(entry.folder.name for entry in entries[-LAST:]))
    return (
        f"there is no such folder, and no name in {OUTPUTS} begins so{meant}; "
        f"`lab ls` shows {len(entries)}, the last {last}"
    )
