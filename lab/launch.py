"""The command line: every job is composed and checked first, then carried out.

A bad configuration ends with exit code 2 and one line that names key, value and what is allowed,
before a directory is made.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab.compose import CONF, compose_config, override_key, plain_overrides
from lab.config import Config
from lab.machine import ProbeError
from lab.schema import ConfigError, unknown_key

log = logging.getLogger("lab")


class SweepError(ValueError):
    """One job of a sweep is impossible; the text says which and why."""


# What a user's input can cause; anything else is a fault of this program.
REFUSALS = (ConfigError, SweepError, ProbeError, HydraException, OmegaConfBaseException)


# --- All jobs, before the first one starts ------------------------------------------------------


class CheckFirst(Callback):
    """Refuses a run or a sweep before Hydra makes its directory.

    Hydra turns an ordinary exception of a callback into a warning; SystemExit passes.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        _or_exit(_check_run, config)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        _or_exit(_check_sweep, config)


def _or_exit(check: Callable[[DictConfig], None], config: DictConfig) -> None:
    try:
        check(config)
    except REFUSALS as error:
        code, line = explain(error, plain_overrides(config.hydra.overrides.task))
        print(line, file=sys.stderr)
        raise SystemExit(code) from None


def _check_run(config: DictConfig) -> None:
    compose_config(config, plain_overrides(config.hydra.overrides.task))
    _check_folder("hydra.run.dir", config.hydra.run.dir, "config.yaml")


def _check_sweep(config: DictConfig) -> None:
    from hydra.core.global_hydra import GlobalHydra

    _check_folder("hydra.sweep.dir", config.hydra.sweep.dir, "*/config.yaml")
    loader = GlobalHydra.instance().config_loader()
    for number, overrides in enumerate(sweep_jobs(config)):
        try:
            compose_config(loader.load_sweep_config(config, overrides), overrides)
        except REFUSALS as error:
            _, line = explain(error, overrides)
            raise SweepError(f"job {number} ({' '.join(overrides)}): {line}") from error


def _check_folder(key: str, folder: str, mark: str) -> None:
    if next(Path(folder).glob(mark), None) is not None:
        raise ConfigError(key, folder, "already holds a run; choose an empty folder or a new one")


def sweep_jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each job of a sweep; for a sweeper that chooses, one job of first values."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    lines = [f"{key}={value}" for key, value in params.items()]
    parsed = OverridesParser.create().parse_overrides(
        [*lines, *plain_overrides(config.hydra.overrides.task)]
    )
    if config.hydra.sweeper._target_.endswith("BasicSweeper"):
        return [job for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]
    return [[_first_value(override) for override in parsed]]


def _first_value(override: Any) -> str:
    key = override.get_key_element()
    if not override.is_sweep_override():
        return f"{key}={override.get_value_element_as_str()}"
    if override.is_discrete_sweep():
        return f"{key}={next(iter(override.sweep_string_iterator()))}"
    return f"{key}={override.value().start}"


# --- Errors in one line -------------------------------------------------------------------------


def explain(error: BaseException, overrides: Sequence[str]) -> tuple[int, str]:
    """The exit code of an error and one line that names key, value and what is allowed."""
    if isinstance(error, ProbeError):
        return 1, f"error: {error}"
    for override in overrides:
        if re.match("~(?!hydra|experiment)", override):
            return 2, f"{override}: cannot be left out"
    if isinstance(error, ConfigError | SweepError):
        return 2, str(error)
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return 1, f"error: {type(error).__name__}: {error}"
    texts = [str(error)]
    if error.__cause__ is not None and str(error.__cause__) not in texts[0]:
        texts.append(str(error.__cause__))
    text = "\n".join(texts)
    given = {override_key(o): o.partition("=")[2] for o in overrides}
    return 2, _unknown_option(text) or _wrong_key(text, given) or _one_line(text, given)


def _unknown_option(text: str) -> str | None:
    pattern = r"Could not find '([^']+)'\s+Available options in '([^']+)':\n((?:\t\S+\n?)+)"
    match = re.search(pattern, text)
    if match is None:
        return None
    group, options = match[2], match[3].split()
    option = match[1].removeprefix(f"{group}/")
    return f"{group}={option}: must be one of {', '.join(options)}"


def _one_line(text: str, given: Mapping[str, str]) -> str:
    key = re.search(r"full_key: (\S+)", text)
    known = key is not None and key[1] in given
    said = re.sub(r"\s*(full_key|reference_type|object_type)[:=].*", "", text)
    line = " ".join(said.split())
    return f"{key[1]}={given[key[1]]}: {line}" if key is not None and known else line


def _wrong_key(text: str, given: Mapping[str, str]) -> str | None:
    full = re.search(r"full_key: (\S+)", text)
    match = full or re.search(r"Could not (?:override|append to config\.) '([^']+)'", text)
    if match is None or match[1].startswith("hydra"):
        return None
    key = match[1]
    wrong = _why_no_key(key, is_set=key in given)
    typed = next((k for k in given if k == key or k.startswith(f"{key}.")), None)
    shown = f"{typed}={given[typed]}" if typed is not None else key
    return f"{shown}: {wrong}" if wrong else None


def _why_no_key(key: str, *, is_set: bool) -> str | None:
    """What is wrong with a dotted key that OmegaConf refused; None if nothing is."""
    cls: Any = Config
    prefix = ""
    for name in key.split("."):
        if prefix == "hardware.tiers.":
            return None  # not keys of a class: OmegaConf's own words will do
        hints = get_type_hints(cls) if cls is not None else {}
        if name not in hints or f"{prefix}{name}" == "version":
            return unknown_key(name, prefix, [n for n in hints if prefix or n != "version"])
        hint = hints[name]
        cls = next((h for h in (hint, *get_args(hint)) if is_dataclass(h)), None)
        prefix += f"{name}."
    return "must be a mapping; set its keys one by one" if cls is not None and is_set else None


# --- The command --------------------------------------------------------------------------------

_exit_codes: list[int] = []


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg: DictConfig) -> float | None:
    """One job. It never raises, so that a sweep goes on; what went wrong is in its exit code."""
    job = HydraConfig.get()
    overrides = plain_overrides(job.overrides.task)
    group = Path(job.sweep.dir).name if job.mode == RunMode.MULTIRUN else None
    try:
        from lab import experiment

        config, warnings = compose_config(cfg, overrides)
        if config.sweep.on_failure == "stop" and any(_exit_codes):
            log.error("not started: an earlier job failed and sweep.on_failure=stop")
            return None
        folder = Path(job.runtime.output_dir)
        result = experiment.run(config, folder, overrides=overrides, warnings=warnings, group=group)
    except Exception:
        log.exception("the run failed")
        _exit_codes.append(1)
        return None
    _exit_codes.append(result.exit_code)
    if result.exit_code in (130, 143):
        raise SystemExit(result.exit_code)  # the user means the whole sweep
    return result.objective


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
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if wanted == "1":
            raise
        code, line = explain(error, sys.argv[1:])
        print(line, file=sys.stderr)
        return code
    if len(_exit_codes) > 1:
        return int(any(_exit_codes))
    return _exit_codes[0] if _exit_codes else 0
