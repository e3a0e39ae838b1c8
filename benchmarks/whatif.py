"""``lab whatif``: what it predicts, held against runs that are really trained.

For each way in which memory grows a sweep of two runs is recorded, one without a reload and one
with three; from them alone other policies are predicted, then trained ``--rounds`` times (3). Peaks
differ from run to run by a census or a table that doubles at another step, so a prediction is held
against the median. The threshold is 60 % of the way from the recorded run's lowest to its highest
memory. Speed: settings of 1,000 steps each, in seconds of computing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median

from benchmarks.report import Figure, Goal, Report
from benchmarks.workspace import Options, Run, Workspace
from lab.config.keys import Fault
from lab.records.rows import read_rows
from lab.records.summary import summarise
from lab.whatif.study import study_of

STEPS, SETTINGS, LONG, ROUNDS = 120, 300, 1000, 3
AT_A_TIME = os.cpu_count() or 1  # ways of growing
INTERVALS = (25, 40)
FEW_SECONDS = 10  # of computing
PEAK_GOAL = Goal(2)  # percent
QUIET = (
    *("tracker=none", "worker.threads=1", "train.val_interval_steps=0", "reload.metric=process"),
    *("checkpoint.interval_steps=0", "memory.leak_warning_mb=0"),
)
RAGGED = (
    "data.max_shapes=0",
    "data.pad_multiple=1",
    "memory.cache_clear_interval=0",
    "memory.cache_limit_gb=4",
)
RAGGED_BATCH = ("train.batch_size=2", "train.max_seq_length=512", *RAGGED)
FAULTS = ("trainer_list", "ema", "token_memo", "fragmentation", "compile_shapes")


@dataclass(frozen=True)
class Pair:
    """A policy as it was predicted, and as it was trained some times."""

    by_interval: bool
    peak: float
    peaks: Sequence[float]
    reloads: int
    counts: Sequence[int]
    overhead: float
    overheads: Sequence[float]

    @property
    def peak_error(self) -> float:
        return abs(self.peak / median(self.peaks) - 1)

    @property
    def missed(self) -> int:
        """Reloads too many or too few, at most."""
        return max(abs(self.reloads - count) for count in self.counts)


def measure(workspace: Workspace, options: Options) -> Report:
    """One recording, and some runs of each policy, for each way of growing."""
    steps, rounds = options.steps or STEPS, options.rounds or ROUNDS
    worlds = dict(_worlds())

    def held(overrides: Sequence[str]) -> tuple[Path, list[Pair]]:
        recorded = _record(workspace, steps, overrides)
        return recorded, list(_pairs(workspace, steps, rounds, overrides, recorded))

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        found = dict(zip(worlds, pool.map(held, worlds.values()), strict=True))
    pairs = {name: own for name, (_, own) in found.items()}
    every = [pair for own in pairs.values() for pair in own]
    by_interval = [pair.missed for pair in every if pair.by_interval]
    others = [pair.missed for pair in every if not pair.by_interval]
    return Report(
        [
            Figure("reloads missed, interval, most", [max(by_interval)], "", Goal(0)),
            Figure("reloads missed, threshold, most", [max(others)], "", Goal(1)),
            Figure("peak off, most", [100 * max(p.peak_error for p in every)], "%", PEAK_GOAL),
            *(
                Figure(f"peak off, {name}", [100 * pair.peak_error for pair in own], "%")
                for name, own in pairs.items()
            ),
            Figure(
                "overhead, predicted - measured",
                [100 * (pair.overhead - median(pair.overheads)) for pair in every],
                "%",
            ),
            Figure(
                f"{SETTINGS} settings of {LONG:,} steps",
                [_seconds(next(iter(found.values()))[0] / "0")],
                "s",
                Goal(FEW_SECONDS),
            ),
        ],
        raw={"pairs": {name: [vars(pair) for pair in own] for name, own in pairs.items()}},
    )


def _worlds() -> Iterator[tuple[str, Sequence[str]]]:
    yield "ragged batches", RAGGED_BATCH
    known = {field.name for field in fields(Fault)}
    for fault in FAULTS:
        if fault in known:
            yield f"fault={fault}", (f"fault={fault}",)


def _record(workspace: Workspace, steps: int, overrides: Sequence[str]) -> Path:
    """The folder of a sweep: never a reload, and one after each three tenths of the steps."""
    every = f"reload.interval_steps=0,{round(0.3 * steps)}"
    words = ("-m", "reload=interval", every, f"train.steps={steps}", *QUIET, *overrides)
    return next(workspace.train(*words).started.folder.glob("outputs/sweeps/*/*"))


def _policy(*reload: str) -> list[str]:
    name = "threshold" if "gb" in reload[0] else "interval"
    return [f"reload={name}", *(f"reload.{word}" for word in reload)]


def _train(workspace: Workspace, steps: int, overrides: Sequence[str], *reload: str) -> Run:
    return workspace.train(f"train.steps={steps}", *QUIET, *overrides, *_policy(*reload))


def _pairs(
    workspace: Workspace, steps: int, rounds: int, overrides: Sequence[str], recorded: Path
) -> Iterator[Pair]:
    memory = [row["memory/process_gb"] for row in read_rows(recorded / "0")]
    threshold = round(min(memory) + 0.6 * (max(memory) - min(memory)), 4)
    for reload in (
        *((f"interval_steps={every}",) for every in INTERVALS),
        (f"memory_threshold_gb={threshold}",),
    ):
        runs = [_train(workspace, steps, overrides, *reload) for _ in range(rounds)]
        [outcome] = study_of(recorded, _policy(*reload)).outcomes
        predicted = outcome.predicted
        yield Pair(
            by_interval="threshold" not in _policy(*reload)[0],
            peak=predicted.peak_gb,
            peaks=[max(run.column("memory/process_gb")) for run in runs],
            reloads=sum(predicted.reloads.values()),
            counts=[len(run.events("reload")) for run in runs],
            overhead=predicted.overhead_fraction,
            overheads=[summarise(run.folder)["overhead_fraction"] for run in runs],
        )


def _seconds(folder: Path) -> float:
    every = ",".join(map(str, range(1, SETTINGS // 2 + 1)))
    limits = ",".join(str(round(0.05 + 0.001 * n, 3)) for n in range(SETTINGS // 2))
    began = time.process_time()
    for words in (
        ("reload=interval", f"reload.interval_steps={every}"),
        ("reload=threshold", f"reload.memory_threshold_gb={limits}"),
    ):
        study_of(folder, [*words, f"train.steps={LONG}"])
    return time.process_time() - began
