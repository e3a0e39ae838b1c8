"""Reproduce a run from its saved ``config.yaml`` and compare the records bit for bit."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lab.compose.overrides import run_name
from lab.config.keys import Config, dump
from lab.config.schema import ConfigError
from lab.machine.machine import Machine
from lab.machine.probe import probe_machine
from lab.records.claim import reserve
from lab.records.digest import sha256_of_file
from lab.records.rows import read_jsonl
from lab.reproduce.compare_records import RecordComparison, Records, compare_records
from lab.reproduce.report import report
from lab.supervise import experiment
from lab.supervise.replay import NONDETERMINISTIC_RTOL, Remedies
from lab.tracking.closing import relative

log = logging.getLogger("lab")

RUNS = Path("outputs/runs")


@dataclass(frozen=True)
class Reproduction:
    """What came of making a run again.

    Attributes:
        exit_code: 0 identical, 1 different, 2 cannot be compared, 130 or 143 interrupted; that of
            the new run if there are no records to compare with.
        folder: of the new run; None where there is none.
        now: its records; None, as ``found``, where there was nothing to compare with.
    """

    exit_code: int
    then: Records
    folder: Path | None = None
    now: Records | None = None
    found: RecordComparison | None = None


def reproduce(source: Path) -> int:
    """Reproduce one run, as :func:`reproduce_run`, and return the exit code."""
    return reproduce_run(source).exit_code


def reproduce_run(source: Path) -> Reproduction:
    """Train again from ``source/config.yaml`` into a new folder and compare the records.

    A config that was edited since its run is used as it is, since a model or a data file may have
    moved, with a warning. Data or a model with another fingerprint is refused before the first
    step.

    Arguments:
        source: the folder of the run.

    Raises:
        ConfigError: the folder is not a run's, or its config or records cannot be read.
    """
    config, then = load_config(source), Records.read(source)
    config, notes = fit(config, probe_machine())
    if then.config_sha256 not in (None, sha256_of_file(source / "config.yaml")):
        notes.append(f"{relative(source)}/config.yaml was changed since its run began")
    if then.lost_rows:
        notes.append(f"of {relative(source)} only the weights can be compared: {then.lost_rows}")
    folder = usual_folder(config.name)
    try:
        claimed = reserve(folder, is_new=True).begin_run(dump(config), later=("train.log",))
    except OSError as error:
        log.error("cannot write to %s: %s", folder, error.strerror)  # noqa: TRY400
        return Reproduction(1, then)
    folder = claimed.path
    with _logged_in(folder):
        log.info("reproducing %s in %s", relative(source), relative(folder))
        code = experiment.run(
            config,
            folder,
            overrides=[],
            warnings=notes,
            begun_with=then.environment,
            remedies=_remedies(source, then) if config.reload.policy == "adaptive" else None,
            claimed=claimed,
            reproduces=relative(source),
        ).exit_code
        if code == 2:
            return Reproduction(2, then)
        if then.is_empty:
            log.info("there are no records beside config.yaml to compare with")
            return Reproduction(code, then, folder)
        now = Records.read(folder)
        tolerance = 0.0 if config.train.deterministic else NONDETERMINISTIC_RTOL
        found = compare_records(then, now, tolerance=tolerance)
        log.info("%s", report(found, then, now))
        if found.verdict == "different":
            for note in notes:
                log.info("  %s", note)
    code = code if code in (130, 143) else found.exit_code
    return Reproduction(code, then, folder, now, found)


def _remedies(source: Path, then: Records) -> Remedies | None:
    """What ``reload=adaptive`` decided by the clock; None where there are no records of it."""
    until = max((row["step"] for row in then.rows), default=0)
    return Remedies.of_run(read_jsonl(source / "events.jsonl"), until=until) if until else None


def load_config(source: Path) -> Config:
    """The config of a run.

    Raises:
        ConfigError: the folder is not a run's, or the config cannot be read.
    """
    if (source / "config.yaml").is_file():
        return Config.load(source / "config.yaml")
    if not source.is_dir():
        raise ConfigError("run", source, "there is no such folder")
    job = min(source.glob("*/config.yaml"), default=None)
    if job is not None and job.parent.name != ".hydra":
        raise ConfigError("run", source, f"is not one run; give one of its runs: {job.parent}")
    raise ConfigError("run", source, "is not a run's folder: it holds no config.yaml")


def fit(config: Config, machine: Machine) -> tuple[Config, list[str]]:
    """Fit a config to this machine: its memory budget is lowered, what decides bits stays.

    Returns:
        The config, and one line for each setting that this machine cannot honour as saved.
    """
    notes, memory, own = [], config.memory, machine.budget_gb
    if memory.budget_gb > own:
        notes.append(
            f"memory.budget_gb={memory.budget_gb:g} is more than this machine's {own:g} GB, "
            "which is used"
        )
        limit = min(memory.limit_gb, own)
        config = replace(config, memory=replace(memory, budget_gb=own, limit_gb=limit))
    if config.worker.threads > machine.cores:
        # Left as it is: OpenBLAS takes no more threads than there are cores to run on, but lets a
        # quota be, and another number of threads gives other bits.
        notes.append(
            f"worker.threads={config.worker.threads} is more than this machine's {machine.cores} "
            "cores: the last bits may differ"
        )
    return config, notes


def usual_folder(name: str) -> Path:
    """The folder that a run of this name gets if it begins now."""
    return RUNS / time.strftime("%Y-%m-%d") / f"{time.strftime('%H-%M-%S')}_{run_name(name, [])}"


@contextmanager
def _logged_in(folder: Path) -> Iterator[None]:
    """Also write log records to the run's ``train.log``."""
    handler = logging.FileHandler(folder / "train.log", encoding="utf-8")
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
