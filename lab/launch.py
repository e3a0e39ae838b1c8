"""The command line: every job is composed and checked first, then carried out.

A bad configuration ends with exit code 2 and one line that names key, value and what is allowed,
before a directory is made.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from lab.compose.config import compose_config
from lab.compose.errors import REFUSALS, SweepError, explain
from lab.compose.overrides import plain_overrides
from lab.compose.profiles import CONF
from lab.config.schema import ConfigError

if TYPE_CHECKING:
    from lab.sweep.lease import Lead

log = logging.getLogger("lab")


@dataclass
class Here:
    """What this process has done of the command that it was given.

    Attributes:
        exit_code: that of the one run there was, or of a sweep that was told to end.
        sweep: the folder of the sweep that it leads, and its hold on it.
        resuming: the sweep was begun by an earlier command.
    """

    exit_code: int = 0
    sweep: Path | None = None
    lead: Lead | None = None
    resuming: bool = False


_here = Here()


# --- All jobs, before the first one starts ------------------------------------------------------


class CheckFirst(Callback):
    """Refuses a run or a sweep before Hydra makes its directory.

    Hydra turns an ordinary exception of a callback into a warning; SystemExit passes.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        _or_exit(_check_run, config)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        _or_exit(_begin_sweep, config)


def _or_exit(check: Callable[[DictConfig], None], config: DictConfig) -> None:
    try:
        check(config)
    except Exception as error:  # noqa: BLE001 - of an ordinary one Hydra would warn, and go on
        code, line = explain(error, plain_overrides(config.hydra.overrides.task))
        print(line, file=sys.stderr)
        raise SystemExit(code) from None


def _check_run(config: DictConfig) -> None:
    compose_config(config, plain_overrides(config.hydra.overrides.task))
    _check_folder("hydra.run.dir", config.hydra.run.dir, "config.yaml")


def _check_folder(key: str, folder: str, *marks: str) -> None:
    for mark in marks:
        if next(Path(folder).glob(mark), None) is not None:
            what = "a sweep" if mark == "sweep.json" else "a run"
            raise ConfigError(key, folder, f"already holds {what}; choose another folder")


def _begin_sweep(config: DictConfig) -> None:
    """Check every job of a sweep, then write its index and take the lead of it."""
    from lab.machine.interpreter import environment_with_lab
    from lab.sweep import plan
    from lab.sweep.lease import Lead
    from lab.sweep.local_ray import set_init_defaults, start_ray

    folder = Path(config.hydra.sweep.dir)
    plan.prefer_command_line(config)
    set_init_defaults(config)
    plan.set_trials_at_once(config)
    index = plan.index_of(config)
    if _here.resuming:
        plan.check_same(folder, index)
    else:
        _check_folder("hydra.sweep.dir", config.hydra.sweep.dir, "sweep.json", "*/config.yaml")
    _check_jobs(config, plan.jobs(config), index.side_by_side)
    if not _here.resuming:
        try:
            index.write(folder)
        except OSError as error:
            raise ConfigError("hydra.sweep.dir", folder, f"{error.strerror}") from error
    _here.sweep, _here.lead = folder, Lead(folder)
    os.environ.update(environment_with_lab())  # a launcher's own processes look for it there
    start_ray(config)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)


def _check_jobs(config: DictConfig, jobs: Sequence[list[str]], side_by_side: int) -> None:
    from hydra.core.global_hydra import GlobalHydra

    loader = GlobalHydra.instance().config_loader()
    for number, overrides in enumerate(jobs):
        try:
            job = loader.load_sweep_config(config, overrides)
            compose_config(job, overrides, side_by_side=side_by_side)
        except REFUSALS as error:
            _, line = explain(error, overrides)
            raise SweepError(f"job {number} ({' '.join(overrides)}): {line}") from error


def _leave(number: int, _: object) -> NoReturn:
    """End the sweep once its jobs have; a second signal does not wait for them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert _here.lead is not None
    _here.exit_code = 130 if number == signal.SIGINT else 143  # Ray changes what is raised
    _here.lead.give_up()
    raise SystemExit(_here.exit_code)


# --- The command --------------------------------------------------------------------------------


def job(cfg: DictConfig) -> float | None:
    """One job. Of a sweep it never raises, so that the others go on."""
    this = HydraConfig.get()
    overrides = plain_overrides(this.overrides.task)
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

        config, warnings = compose_config(cfg, overrides)
        result = experiment.run(config, folder, overrides=overrides, warnings=warnings)
        _here.exit_code = result.exit_code
    except Exception:
        log.exception("the run failed")
        _here.exit_code = 1


# Not a decorator: a launcher's processes find the function by its name, and must find this one.
main = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)


def _multirun_first(arguments: Sequence[str]) -> list[str]:
    """``a=1 -m b=2`` as ``-m a=1 b=2``: Hydra's parser takes it only at either end."""
    flags = [a for a in arguments if a in ("-m", "--multirun")]
    return flags[:1] + [a for a in arguments if a not in flags]


def _compose_once(arguments: Sequence[str]) -> None:
    """Save the time of a second composition, a tenth of a second, where it cannot matter.

    Hydra composes everything beforehand only to see whether some YAML sets ``hydra.mode``; here
    only an experiment, or a setting of Hydra's own, can.
    """
    from hydra._internal.hydra import Hydra

    may_set_mode = ("hydra.mode", "+hydra", "hydra/", "hydra=", "experiment", "+experiment")
    if not any(argument.startswith(may_set_mode) for argument in arguments):
        Hydra.get_mode = lambda *_, **__: None


def resume_sweep(folder: Path, overrides: Sequence[str]) -> int:
    """Go on with the jobs of a sweep that are missing or were cut off.

    Arguments:
        overrides: given now, on top of those that the sweep was begun with.

    Raises:
        ConfigError: there is no sweep, or it cannot be gone on with.
    """
    from lab.sweep.index import Index

    again = Index.read(folder).again(folder)
    _here.resuming = True
    quoted = str(folder).replace("'", "\\'")
    sys.argv[1:] = ["-m", *again, *overrides, f"hydra.sweep.dir='{quoted}'"]
    return app()


def app() -> int:
    """Run the command line and return its exit code."""
    # Hydra prints its errors over several lines and exits 1; with this it raises them instead.
    wanted = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    logging.raiseExceptions = False  # `train.py | head` is no reason for tracebacks
    sys.argv[1:] = _multirun_first(sys.argv[1:])
    _compose_once(sys.argv[1:])
    try:
        main()
        code = _here.exit_code
    except KeyboardInterrupt:
        code = 130
    except SystemExit as left:
        if _here.sweep is None:
            raise
        code = left.code if isinstance(left.code, int) else 1
    except Exception as error:
        if wanted == "1":
            raise
        code, line = explain(error, sys.argv[1:])
        print(line, file=sys.stderr)
    if _here.sweep is not None and _here.lead is not None:
        from lab.sweep.local_ray import stop_ray
        from lab.sweep.report import close_sweep

        _here.lead.give_up()  # where a launcher broke, some jobs still run
        stop_ray()
        code = close_sweep(_here.sweep, _here.exit_code or code)
    return code
