"""``lab``: commands on existing runs and sweeps. ``python train.py`` starts new ones."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from lab.config.schema import ConfigError
from lab.machine.probe import ProbeError


def main() -> int:
    """Run one subcommand.

    Returns:
        The exit code: that of the run where the command trains; 2 for a user's mistake, 130 after
        Ctrl-C.
    """
    arguments = _arguments()
    out = sys.stderr if getattr(arguments, "json", False) else sys.stdout
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=out)
    logging.raiseExceptions = False  # `lab reproduce | head` closes stdout: no tracebacks
    try:
        return _run(arguments)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except ProbeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `lab compare SWEEP | head`: the files are written already
        # Python flushes stdout at exit, which would raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(arguments: argparse.Namespace) -> int:
    match arguments.command:
        case "resume":
            flags = {
                "--config-dir": arguments.config_dir,
                "--config-name": arguments.config_name,
            }
            given = [f"{flag}={value}" for flag, value in flags.items() if value is not None]
            return _resume(arguments.run_dir, [*given, *arguments.overrides])
        case "reproduce":
            return _reproduce(arguments.run_dir)
        case "compare":
            from lab.compare.command import compare_runs

            return compare_runs(arguments.folders, as_csv=arguments.csv)
        case "whatif":
            from lab.whatif.command import whatif as predict

            return predict(arguments.folder, arguments.settings, as_json=arguments.json)
        case "explain":
            return _explain(arguments.folder, measures=arguments.measure, as_json=arguments.json)
        case "plot":
            return _plot(arguments.run_dir)
        case _:
            return _sync(arguments.folders, send=not arguments.offline)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    resume = commands.add_parser("resume", help="go on with a run or a sweep that was cut off")
    resume.add_argument("run_dir", type=Path, help="the folder of a run, or of a sweep")
    resume.add_argument(
        "overrides", nargs="*", help="for a sweep: e.g. its launcher's settings, given again"
    )
    for flag in ("--config-dir", "--config-name"):
        resume.add_argument(flag, help="of a sweep, where it is not taken from its index")
    reproduce = commands.add_parser("reproduce", help="run again from config.yaml, and compare")
    reproduce.add_argument("run_dir", type=Path)
    compare = commands.add_parser("compare", help="runs side by side: a page, a picture, a table")
    compare.add_argument(
        "folders", type=Path, nargs="+", metavar="folder", help="of a run, a sweep, or many of them"
    )
    compare.add_argument("--csv", action="store_true", help="compare.csv, not compare.parquet")
    whatif = commands.add_parser("whatif", help="what other reloads would do, without training")
    whatif.add_argument("folder", type=Path, help="of a run, which may go on, or of a sweep")
    whatif.add_argument("settings", nargs="*", metavar="key=v1,v2", help="e.g. reload=interval")
    whatif.add_argument("--json", action="store_true", help="everything, for another program")
    explain = commands.add_parser("explain", help="what grows, who holds it, what gives it back")
    explain.add_argument("folder", type=Path, help="of a run, or of a sweep")
    explain.add_argument("--json", action="store_true", help="as a program reads it")
    explain.add_argument(
        "--measure", action="store_true", help="what gives it back, in a copy of a run that ended"
    )
    plot = commands.add_parser("plot", help="draw memory.png again, of a live run too")
    plot.add_argument("run_dir", type=Path)
    sync = commands.add_parser("sync", help="make W&B runs again from the files, and send them")
    sync.add_argument("folders", type=Path, nargs="+", metavar="folder", help="of runs, or sweeps")
    sync.add_argument("--offline", action="store_true", help="only make it")
    arguments, more = parser.parse_known_args()
    if arguments.command == "whatif" and not any(word.startswith("-") for word in more):
        arguments.settings += more  # those after an option, which argparse takes for none
    elif more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    return arguments


def _resume(run_dir: Path, overrides: list[str]) -> int:
    if (run_dir / "sweep.json").is_file():
        from lab.launch import resume_sweep

        return resume_sweep(run_dir.resolve(), overrides)
    if overrides:
        raise ConfigError(overrides[0], "", "a run is resumed as it was begun, without overrides")
    from lab.supervise import experiment

    return experiment.resume(run_dir).exit_code


def _reproduce(run_dir: Path) -> int:
    from lab.reproduce.reproduce import reproduce

    return reproduce(run_dir)


def _explain(folder: Path, *, measures: bool, as_json: bool) -> int:
    from lab.compare.find import find_runs
    from lab.explain.command import explain_one, explain_sweep

    if measures:
        from lab.reproduce.measure import measure

        if code := measure(folder):
            return code
    if (folder / "sweep.json").is_file():
        return explain_sweep([found.folder for found in find_runs([folder]).locations], as_json)
    return explain_one(folder, as_json)


def _plot(run_dir: Path) -> int:
    from lab.explain.report import growth_note
    from lab.plots.memory_plot import plot_run

    if not (run_dir / "metrics.jsonl").is_file():
        raise ConfigError("run", run_dir, "holds no metrics.jsonl; give the folder of a run")
    print(plot_run(run_dir, growth_note(run_dir)))
    return 0


def _sync(folders: list[Path], *, send: bool) -> int:
    from lab.explain.explanation import explain_figures
    from lab.sweep.report import view_of
    from lab.tracking.closing import command
    from lab.tracking.sync import SyncError, rebuild
    from lab.tracking.wandb import can_send, wait_for_files

    sweeps = [folder for folder in folders if (folder / "sweep.json").is_file()]
    try:
        made = [
            os.path.relpath(rebuild(run_dir, explain_figures(run_dir)))
            for run_dir in _runs_of(folders)
        ]
    except SyncError as error:
        print(error, file=sys.stderr)
        return 1
    wait_for_files()
    line = command("wandb", "sync", *made)
    if not send or not can_send():
        print(f"made again from the files; to send it to W&B: {line}")
        return 0
    code = subprocess.run([*shlex.split(line)], check=False).returncode
    if code == 0:
        for sweep in sweeps:
            print("view", view_of(sweep.resolve()))
    return code


def _runs_of(folders: list[Path]) -> Iterator[Path]:
    """The given folders of runs, and for each sweep the folders of its jobs."""
    from lab.sweep.index import jobs_of

    for folder in folders:
        if (folder / "sweep.json").is_file():
            yield from (path for _, path in jobs_of(folder) if (path / "config.yaml").is_file())
        else:
            yield folder


if __name__ == "__main__":
    sys.exit(main())
