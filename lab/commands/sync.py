"""``lab sync``: make W&B runs again from the files, and send them."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path


def add_arguments(parser: ArgumentParser) -> None:
    """Declare what can be typed after the command."""
    from lab.catalog.names import add_folders

    add_folders(parser, "+", "of runs, or sweeps")
    parser.add_argument("--offline", action="store_true", help="only make it")


def run(arguments: Namespace) -> int:
    """Send them and save their views, or make them offline; return the exit code."""
    from lab.catalog.names import folder_of
    from lab.tracking.sync import SyncError

    found = {folder: _runs_for_wandb(folder) for folder in map(folder_of, arguments.folders)}
    by_folder = {folder: runs for folder, runs in found.items() if runs}
    if not by_folder:
        return 0
    try:
        return _make(by_folder) if arguments.offline else _send(by_folder)
    except SyncError as error:
        print(error, file=sys.stderr)
        return 1


def _make(by_folder: Mapping[Path, Sequence[Path]]) -> int:
    from lab.explain.explanation import explain_figures
    from lab.sweep.report import link_sweep
    from lab.tracking.closing import command
    from lab.tracking.service import wait_for_files
    from lab.tracking.sync import rebuild

    runs = [run for runs in by_folder.values() for run in runs]
    made = [os.path.relpath(rebuild(run, explain_figures(run))) for run in runs]
    for folder in filter(_is_sweep, by_folder):
        made += [os.path.relpath(logged) for logged in _log_page(folder, "offline")]
        link_sweep(folder)
    wait_for_files()
    line = command("wandb", "sync", *made)
    print(f"made again from the files; to send it to W&B: {line}")
    return 0


def _send(by_folder: Mapping[Path, Sequence[Path]]) -> int:
    from lab.config.keys import Config
    from lab.explain.explanation import explain_figures
    from lab.sweep.report import view_of
    from lab.tracking.sync import send
    from lab.tracking.view import run_view
    from lab.tracking.wandb import can_send

    if not can_send():
        return _make(by_folder)
    for run in (run for runs in by_folder.values() for run in runs):
        print("sent", send(run, explain_figures(run)))
    for folder in by_folder:
        if _is_sweep(folder):
            for logged in _log_page(folder, "online"):
                print("page", logged)
            print("view", view_of(folder.resolve()))
        elif view := run_view(Config.load(folder / "config.yaml"), folder):
            print("view", view)
    return 0


def _log_page(folder: Path, mode: str) -> list[str]:
    """Log the page of a sweep that has one; where it is in W&B, or nothing where that failed."""
    from lab.sweep.page import has_page, log_sweep
    from lab.tracking.page import PageError
    from lab.tracking.sync import FINISH_SECONDS

    try:
        return [log_sweep(folder, mode, seconds=FINISH_SECONDS)] if has_page(folder) else []
    except PageError as error:
        print(f"the page of {folder} is not in W&B: {error}", file=sys.stderr)
        return []


def _is_sweep(folder: Path) -> bool:
    return (folder / "sweep.json").is_file()


def _runs_of(folder: Path) -> list[Path]:
    """A run's folder, or of a sweep those of its jobs."""
    from lab.sweep.index import jobs_of

    if not _is_sweep(folder):
        return [folder]
    return [path for _, path in jobs_of(folder) if (path / "config.yaml").is_file()]


def _runs_for_wandb(folder: Path) -> list[Path]:
    """A run's folder, or of a sweep those of its jobs; what has another tracker is told and left.

    A run without any tracker can still become W&B's.
    """
    from lab.config.keys import Config
    from lab.tracking.closing import relative
    from lab.tracking.opening import ways_to_open

    configs = {run: Config.load(run / "config.yaml") for run in _runs_of(folder)}
    others = {
        run: config
        for run, config in configs.items()
        if config.tracker.mode == "none" and config.tracker.beside_wandb
    }
    kept = [run for run in configs if run not in others]
    if others:
        config, is_sweep = next(iter(others.values())), folder not in configs
        name = " and ".join(config.tracker.beside_wandb)
        opened = "; ".join(ways_to_open(config, folder, is_sweep=is_sweep))
        print(f"{relative(folder)} has tracker={name}: nothing to sync; to open it: {opened}")
    elif not kept:
        print(f"{relative(folder)} holds no run that has begun: nothing to sync")
    return kept
