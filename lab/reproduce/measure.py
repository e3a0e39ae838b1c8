"""Measure what gives a run's memory back: every rung, in a copy that is thrown away.

The copy goes on from the run's last checkpoint in real workers until as much has grown again as
can be told from noise, then takes the rungs one after the other, each in place of what
``reload=adaptive`` would decide. Of the run only its ``explain.json`` is changed.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from lab.config.keys import Config, dump
from lab.config.schema import ConfigError
from lab.config.units import MB
from lab.explain.command import find_explanation
from lab.explain.explanation import EXPLAIN_FILE, Explanation
from lab.explain.measured import HALF, Change, Tried, with_measured
from lab.explain.report import headline
from lab.machine.probe import probe_machine
from lab.protocol import Rung
from lab.records.claim import reserve
from lab.records.digest import sha256_of_file
from lab.records.files import MetricsLost, check_idle, read_summary, write_json
from lab.records.rows import read_jsonl
from lab.records.slope import WARM_UP_STEPS
from lab.reproduce.compare_records import Records
from lab.reproduce.reproduce import fit, load_config
from lab.supervise import experiment
from lab.supervise.replay import Remedies

log = logging.getLogger("lab")

ENOUGH_MB = 24.0  # of growth; a reload leaves 1 to 3 MB behind, and a process's noise is like it
LEAST_STEPS, MOST_STEPS = 16, 400  # in which it grows
SETTLED = 4  # steps between the two reloads, so that the second one's time is told from a step's


@dataclass(frozen=True)
class Plan:
    """When a copy does what.

    Attributes:
        start: the step that it goes on from.
        waits: steps until growth is there, as it was when the run's explanation was made.
        grows: steps of growth after that.
    """

    start: int
    waits: int
    grows: int

    @classmethod
    def of(cls, found: Explanation, mb_per_step: float, start: int) -> Plan:
        waits = min(max((found.step or 0) - start, 0), MOST_STEPS)
        wanted = math.ceil(min(ENOUGH_MB / mb_per_step, MOST_STEPS))
        return cls(start, waits, max(wanted, LEAST_STEPS))

    @property
    def base(self) -> int:
        """The step after which all that is unused is given back; growth counts from the next."""
        return self.start + WARM_UP_STEPS

    @property
    def first(self) -> int:
        """The step after which the first rung is taken."""
        return self.base + 1 + self.waits + self.grows

    @property
    def rungs(self) -> dict[int, Rung]:
        """The rungs by the step after which each is taken, the cheapest first."""
        first = self.first
        return {
            first: "clear_cache",
            first + 1: "collect",
            first + 2: "reload_in_process",
            first + 2 + SETTLED: "reload_process",
        }

    @property
    def last(self) -> int:
        """The step after which the last rung's effect is read."""
        return max(self.rungs) + 1

    @property
    def remedies(self) -> Remedies:
        return Remedies(until=self.last, by_step={self.base: "collect", **self.rungs})


def measure(run_dir: Path) -> int:
    """Measure the rungs in a copy of a run whose memory grows, and put them into ``explain.json``.

    Returns:
        The exit code: 0; that of the copy where it did not come to its end; 1 where nothing could
        be measured.

    Raises:
        ConfigError: there is no such run or nothing grows in it, it is still going on, or cannot be
            gone on with.
    """
    try:
        with _signals_as_ctrl_c():
            code = _measure(run_dir)
    except KeyboardInterrupt as stop:
        code = stop.args[0] if stop.args else 130
    except shutil.Error as error:  # one for each file
        first = error.args[0][0][-1]
        log.error("nothing was measured: the copy in %s: %s", gettempdir(), first)  # noqa: TRY400
        return 1
    except (OSError, MetricsLost, NothingMeasured) as error:
        log.error("nothing was measured: %s", error)  # noqa: TRY400
        return 1
    if code in (130, 143):
        log.info("nothing was measured: it was interrupted")
    return code


def _measure(run_dir: Path) -> int:
    config = load_config(run_dir)
    if config.trainer != "lab":
        raise ConfigError("trainer", config.trainer, "has no reloads to measure; trainer=lab has")
    check_idle(run_dir)
    if not os.access(run_dir, os.W_OK):
        raise ConfigError("run", run_dir, "cannot be written, and what is measured goes there")
    content = find_explanation(run_dir)[0]
    found = Explanation.of(content)
    mb_per_step = found.kinds.get(found.kind) or found.mb_per_step or 0.0
    if not found.grows or mb_per_step <= 0:
        raise ConfigError("run", run_dir, f"{headline(found)}; nothing to measure")
    plan = Plan.of(found, mb_per_step, _last_checkpoint(run_dir))
    log.info("%s", _plan_in_words(plan))
    with TemporaryDirectory(prefix="lab-explain-") as temporary:
        folder = Path(temporary) / "copy"
        code = _run(run_dir, folder, _config_of_copy(config, plan), plan)
        measured = None if code else _with_measured(content, folder, plan, mb_per_step)
    if measured is not None:
        check_idle(run_dir)
        write_json(run_dir / EXPLAIN_FILE, measured)
    return code


@contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    """What ends a process at once raises as Ctrl-C does, so that the copy's folder goes too."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt(143)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class NothingMeasured(Exception):  # noqa: N818
    """A copy that does not tell what gives memory back."""


def _plan_in_words(plan: Plan) -> str:
    where = f"its checkpoint of step {plan.start}" if plan.start else "its beginning"
    return f"a copy of the run goes on from {where} to step {plan.last}"


def _with_measured(
    content: Mapping[str, Any], folder: Path, plan: Plan, mb_per_step: float
) -> dict[str, Any]:
    tried, grown = read_copy(folder, plan)
    steps, grown_mb = plan.waits + plan.grows, grown.of(str(content.get("kind"))) / MB
    if grown_mb < HALF * mb_per_step * plan.grows:
        then = f"in the run it was {mb_per_step:.2g} MB a step"
        raise NothingMeasured(f"in {steps} steps of the copy {grown_mb:.1f} MB grew, {then}")
    return with_measured(content, tried, grown, start=plan.start, steps=steps)


# --- The copy -----------------------------------------------------------------------------------


def _config_of_copy(config: Config, plan: Plan) -> Config:
    """The run's config, but for what ends it, writes, or acts on memory beside the rungs."""
    config, notes = fit(config, probe_machine())
    for note in notes:
        log.warning("%s", note)
    optimizer, warmup = config.optimizer, min(config.optimizer.warmup_steps, plan.last)
    return replace(
        config,
        train=replace(config.train, steps=plan.last),
        optimizer=replace(optimizer, warmup_steps=warmup),
        checkpoint=replace(config.checkpoint, enabled=True, interval_steps=0, keep=1),
        reload=replace(config.reload, policy="adaptive", leak_threshold_mb=0.0),
        memory=replace(config.memory, leak_warning_mb=0.0),
        worker=replace(config.worker, max_restarts=0),
        fault=replace(config.fault, crash=None),
        explain=replace(config.explain, enabled=False),
        tracker=replace(config.tracker, name="wandb", mode="none", also=()),
    )


def _run(run_dir: Path, folder: Path, config: Config, plan: Plan) -> int:
    """Run the copy to its end, its progress on the standard error; its exit code."""
    claimed = reserve(folder).begin_run(dump(config))
    with (run_dir / "metrics.jsonl").open("rb") as rows:
        (folder / "metrics.jsonl").write_bytes(b"".join(islice(rows, plan.start)))
    if plan.start:
        name = f"checkpoints/step_{plan.start}"
        shutil.copytree(run_dir / name, folder / name)
    with redirect_stdout(sys.stderr), _without_words():
        code = experiment.run(
            config,
            claimed.path,
            overrides=[],
            warnings=[],
            begun_with=Records.read(run_dir).environment,
            remedies=plan.remedies,
            claimed=claimed,
        ).exit_code
    if code in (1, 3):
        raise NothingMeasured(f"the copy ended as {_end_of(folder)}")
    return code


@contextmanager
def _without_words() -> Iterator[None]:
    """Errors alone are told: what a run says at its end is of a folder that is gone by then."""
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _end_of(folder: Path) -> str:
    died = [e for e in read_jsonl(folder / "events.jsonl") if e["event"] == "worker_died"]
    why = died[-1]["error"] or died[-1]["cause"] if died else ""
    return f"{read_summary(folder).get('state', 'failed')}{why and f': {why}'}"


def _last_checkpoint(run_dir: Path) -> int:
    """The step of the newest checkpoint that is whole and has all rows up to it; 0 without one."""
    rows = sum(1 for _ in read_jsonl(run_dir / "metrics.jsonl"))
    names = (path.name.removeprefix("step_") for path in (run_dir / "checkpoints").glob("step_*"))
    steps = sorted((int(name) for name in names if name.isdecimal()), reverse=True)
    found = (s for s in steps if s <= rows and _is_whole(run_dir / f"checkpoints/step_{s}"))
    return next(found, 0)


def _is_whole(folder: Path) -> bool:
    """Whether all files of a checkpoint are those of its manifest."""
    try:
        files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
        plain = all(Path(name).name == name and (folder / name).is_file() for name in files)
        return plain and all(sha256_of_file(folder / n) == files[n]["sha256"] for n in files)
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return False


# --- What it did --------------------------------------------------------------------------------


def read_copy(folder: Path, plan: Plan) -> tuple[Sequence[Tried], Change]:
    """The rungs, and what had grown before the first; memory counts as of that moment.

    Raises:
        NothingMeasured: one of them was not taken.
    """
    events = {
        event["step"]: event
        for event in read_jsonl(folder / "events.jsonl")
        if event["event"] in ("remedy", "reload") and "after" in event
    }
    if missing := sorted({plan.base, *plan.rungs} - set(events)):
        raise NothingMeasured(f"the copy took no remedy after step {missing[0]}")
    full: Mapping[str, Any] = events[plan.first]["before"]
    tried = [
        Tried(name, Change.between(full, events[step]["after"]), _seconds(events[step]))
        for step, name in plan.rungs.items()
    ]
    return tried, Change.between(full, events[plan.base]["after"])


def _seconds(event: Mapping[str, Any]) -> float:
    seconds = event["seconds"]
    # The first step is measured against the median: below it, it was only a short one.
    return sum(max(s, 0.0) for s in seconds.values()) if isinstance(seconds, dict) else seconds
