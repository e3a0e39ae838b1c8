"""Hydra's entry point: check the run, or every job of the sweep, then run.

A bad configuration ends with exit code 2 and one line that names the key, its value and what is
allowed, before a directory is made.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from lab.compose.check import check_single, claim_folder, hydras_files
from lab.compose.checked import checked_run
from lab.compose.config import compose_config
from lab.compose.errors import explain
from lab.compose.flags import check_flags
from lab.compose.overrides import plain_overrides, quoted
from lab.compose.profiles import CONF
from lab.compose.tracker import check_wandb
from lab.config.keys import Config, dump
from lab.config.schema import ConfigError
from lab.records.claim import NewFolder, reserve
from lab.tracking.closing import resume_command
from lab.tracking.terminal import outlive_terminal, write_nowhere

if TYPE_CHECKING:
    from lab.sweep.lease import SweepLease
    from lab.sweep.live import SweepView

log = logging.getLogger("lab")


@dataclass(frozen=True)
class CheckedRun:
    """A run that may begin: its config, what was noticed in it, and the folder it has claimed."""

    config: Config
    warnings: list[str]
    folder: NewFolder


@dataclass
class CommandState:
    """What Hydra's callbacks and tasks leave for the end of the command; they return nothing.

    Attributes:
        exit_code: of the single run, or of a sweep that was interrupted.
        checked: the single run, until it begins.
        lease: on the sweep, once it is begun.
        view: of the sweep on a terminal.
        resuming: the sweep was begun by an earlier command.
        only_checks: the command has ``--check``.
    """

    exit_code: int = 0
    checked: CheckedRun | None = None
    lease: SweepLease | None = None
    view: SweepView | None = None
    resuming: bool = False
    only_checks: bool = False


_state = CommandState()


# --- Before the first job -----------------------------------------------------------------------


class CheckFirst(Callback):
    """Check a run or a whole sweep before Hydra makes its directory.

    Hydra turns an ordinary exception of a callback into a warning; SystemExit passes.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        _or_exit(_check_run, config)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        _or_exit(_begin_sweep, config)


def _or_exit(check: Callable[[DictConfig], None], config: DictConfig) -> None:
    try:
        check(config)
    except Exception as error:  # noqa: BLE001 - Hydra would only warn, and go on
        code, line = explain(error, plain_overrides(config.hydra.overrides.task))
        print(line, file=sys.stderr)
        raise SystemExit(code) from None


def _check_run(config: DictConfig) -> None:
    check_single(config, sys.argv[1:])
    checked, warnings = compose_config(config, plain_overrides(config.hydra.overrides.task))
    check_wandb(checked, os.environ)
    folder = claim_folder(config, "run").begin_run(dump(checked), later=hydras_files(config))
    if _state.only_checks:
        folder.give_back()
        _say_checked(checked_run(checked, warnings, folder.path))
    _state.checked = CheckedRun(checked, warnings, folder)


def _say_checked(lines: Sequence[str]) -> NoReturn:
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:
        write_nowhere()
    raise SystemExit(0)


def _begin_sweep(config: DictConfig) -> None:
    from lab.sweep.begin import begin_sweep, check_sweep
    from lab.sweep.live import open_view
    from lab.sweep.local_ray import start_ray

    if _state.only_checks:
        _say_checked(check_sweep(config))
    _state.lease = begin_sweep(config, resuming=_state.resuming)
    _state.view = open_view(config, _state.lease.folder)  # before a launcher has processes
    start_ray(config)  # before our handlers: it installs one of SIGTERM
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt_sweep)


def _interrupt_sweep(number: int, _: object) -> NoReturn:
    """End the sweep once its jobs have ended; a second signal does not wait for them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert _state.lease is not None
    _state.exit_code = 130 if number == signal.SIGINT else 143  # Ray replaces the SystemExit
    _state.lease.release()
    raise SystemExit(_state.exit_code)


# --- The command --------------------------------------------------------------------------------


def job(cfg: DictConfig) -> float | None:
    """Hydra's task function: a single run, or one job of a sweep.

    A job of a sweep raises no error, so that the others go on.

    Returns:
        The objective for a sweeper; None for a single run, and for a job that did not complete.
    """
    if _state.only_checks:  # a config of somebody's own, without our callback
        raise ConfigError("--check", "", "needs the callback of conf/config.yaml")
    this = HydraConfig.get()
    overrides = plain_overrides(this.overrides.task)
    with chdir(this.runtime.cwd):  # with hydra.job.chdir=true it is the run's folder
        if this.mode != RunMode.MULTIRUN:
            _run(cfg, overrides, Path(this.runtime.output_dir))
            return None
        from lab.sweep.task import run_job

        return run_job(
            cfg,
            overrides,
            number=this.job.num,
            folder=Path(this.runtime.output_dir),
            sweep=Path(this.runtime.cwd, this.sweep.dir),
        )


def _run(cfg: DictConfig, overrides: list[str], folder: Path) -> None:
    try:
        from lab.supervise import experiment

        run, _state.checked = _state.checked, None
        if run is None:  # a config of somebody's own, without our callback
            config, warnings = compose_config(cfg, overrides)
            run = CheckedRun(config, warnings, reserve(folder).begin_run(dump(config)))
        result = experiment.run(
            run.config,
            run.folder.path,
            overrides=overrides,
            warnings=run.warnings,
            claimed=run.folder,
        )
        _state.exit_code = result.exit_code
    except Exception:
        log.exception("the run failed")
        log.error("to go on with it: %s", resume_command(folder))  # noqa: TRY400
        _state.exit_code = 1


# Not a decorator: launchers pickle `job` by its name, which must not mean the wrapped function.
main = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)


def _multirun_first(arguments: Sequence[str]) -> list[str]:
    """Move ``-m`` to the front: Hydra's parser takes it only before or after all overrides."""
    flags = [a for a in arguments if a in ("-m", "--multirun")]
    return flags[:1] + [a for a in arguments if a not in flags]


def _without_check(arguments: Sequence[str]) -> list[str]:
    """Take ``--check`` away: a program cannot add to the flags of Hydra's parser."""
    _state.only_checks = "--check" in arguments
    return [a for a in arguments if a != "--check"]


def _compose_once(arguments: Sequence[str]) -> None:
    """Skip Hydra's first of two compositions, which takes 0.1 s, where it cannot matter.

    Hydra composes once only to see whether a config sets ``hydra.mode``; here only an experiment,
    or a setting of Hydra's own, can.
    """
    from hydra._internal.hydra import Hydra

    may_set_mode = (
        "hydra.mode",
        "+hydra",
        "hydra/",
        "hydra=",
        "experiment",
        "+experiment",
        "debug",
        "+debug",
    )
    if not any(argument.startswith(may_set_mode) for argument in arguments):
        Hydra.get_mode = lambda *_, **__: None


def resume_sweep(folder: Path, overrides: Sequence[str]) -> int:
    """Run the jobs of a sweep that are missing or were cut off.

    Arguments:
        overrides: given now, on top of those that the sweep was begun with.

    Raises:
        ConfigError: there is no sweep, or it cannot be resumed.
    """
    from lab.sweep.index import SweepIndex
    from lab.sweep.restore import restored

    index = SweepIndex.read(folder)
    begun_with = [*restored(index, folder, overrides), *index.checked_overrides(folder)]
    _state.resuming = True
    arguments = [*begun_with, *overrides, f"hydra.sweep.dir={quoted(folder)}"]
    # Hydra's parser takes flags only before or after all overrides.
    sys.argv[1:] = ["-m", *sorted(arguments, key=lambda a: not a.startswith("--"))]
    return app()


def _ended_by(error: Exception) -> tuple[int, str]:
    """Exit code and line of what ended the command; a run's folder goes where it has not begun."""
    if _state.checked is not None:  # Hydra could not make its own files
        folder = _state.checked.folder
        error = folder.refused(error) if isinstance(error, OSError) else error
        folder.give_back()
    if _state.lease is not None and isinstance(error, OSError):
        why = error.strerror or error
        return 1, f"cannot write to {_state.lease.folder}: {why}; make room, then resume the sweep"
    return explain(error, sys.argv[1:])


def app() -> int:
    """Run the command line and return its exit code."""
    # Hydra prints its errors over several lines and exits 1; with this it raises them instead.
    wanted = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    logging.raiseExceptions = False  # `train.py | head` is no reason for tracebacks
    outlive_terminal()
    sys.argv[1:] = _multirun_first(_without_check(sys.argv[1:]))
    try:
        check_flags(sys.argv[1:])
        _compose_once(sys.argv[1:])
        main()
        sys.stdout.flush()
        code = _state.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # `train.py --help | head`
        write_nowhere()
        code = _state.exit_code
    except SystemExit as left:
        if _state.lease is None:
            raise
        code = left.code if isinstance(left.code, int) else 1
    except Exception as error:
        code, line = _ended_by(error)
        if wanted == "1":
            raise
        print(line, file=sys.stderr)
    if _state.lease is not None:
        from lab.sweep.local_ray import stop_ray
        from lab.sweep.report import close_sweep

        _state.lease.release()  # where a launcher broke, some jobs still run
        stop_ray()
        if _state.view is not None:
            _state.view.close()
        code = close_sweep(_state.lease.folder, _state.exit_code or code)
    return code
