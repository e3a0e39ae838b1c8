"""``reload=adaptive``: its time in remedies beside the best fixed interval's of each growth mode.

For each growth mode at 1 MB a step one run without reloads is recorded; from it ``lab whatif``
finds the largest interval that stays in the budget, in process where that helps, else by process.
It is trained, and a smaller one where it went over, beside an adaptive run. Reloads take a
tenth of a second and others use the machine, so a run's time is its counts times the median seconds
of each rung over all runs; the seconds as they were are in the JSON. The best single interval is
the largest that keeps the fastest growth in the budget. A run may end just before the interval's
next reload: with three reloads a run that shows, with ``--steps 1000`` it does hardly.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.report import Figure, Goal, Report
from benchmarks.workspace import Options, Run, Workspace, say
from lab.faults.truth import TRUTHS
from lab.train.adaptive import KEEPING_STATE
from lab.whatif.recommend import Outcome
from lab.whatif.study import study_of

STEPS, RECORDED = 230, 120
BUDGET_GB = 0.12
AT_A_TIME = max(3, os.cpu_count() or 1)  # growth modes
MB_PER_STEP = 1  # of each growth mode
TRIES = 6  # intervals that are trained, each smaller than the one before
METHODS = ("in_process", "process")
COMMON = (
    *("tracker=none", "train.batch_size=2", "train.max_seq_length=64", "train.val_batches=1"),
    *("checkpoint.interval_steps=0", "worker.threads=1"),
)


@dataclass(frozen=True)
class Taken:
    """What a run did: its interval, if that was its policy, and how often each rung and how long.

    Attributes:
        peak_gb: of the process, after a step.
        seconds: of each use of each rung.
        within: it stayed in the budget.
    """

    interval: int
    peak_gb: float
    seconds: Mapping[str, Sequence[float]]
    within: bool

    @property
    def counts(self) -> dict[str, int]:
        return {rung: len(seconds) for rung, seconds in self.seconds.items()}

    @property
    def reloads(self) -> int:
        return sum(count for rung, count in self.counts.items() if rung not in KEEPING_STATE)

    @property
    def total(self) -> float:
        return sum(sum(seconds) for seconds in self.seconds.values())

    def usual(self, unit: Mapping[str, float]) -> float:
        """Seconds, at so many for each use of a rung."""
        return sum(count * unit[rung] for rung, count in self.counts.items())


@dataclass(frozen=True)
class Pair:
    """One growth mode: the adaptive run and that of the best interval."""

    fault: str
    adaptive: Taken
    interval: Taken

    @property
    def foreseen(self) -> int:
        """Reloads of one who knows the remedy, with the interval's for the last step that fits."""
        return 0 if TRUTHS[self.fault].remedy in KEEPING_STATE else self.interval.reloads

    def line(self) -> str:
        did = ", ".join(f"{count} {rung}" for rung, count in self.adaptive.counts.items())
        best = ", ".join(f"{count} {rung}" for rung, count in self.interval.counts.items())
        return f"{self.fault}: {did}; interval {self.interval.interval}: {best}"


def measure(workspace: Workspace, options: Options) -> Report:
    """Three or more runs of each growth mode."""
    steps = options.steps or STEPS
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        found = list(pool.map(lambda fault: _pair(workspace, fault, steps), TRUTHS))
    pairs, recorded = [pair for pair, _ in found], {pair.fault: path for pair, path in found}
    single = _best_single(workspace, steps, recorded)
    unit = _unit([single, *(taken for pair in pairs for taken in (pair.adaptive, pair.interval))])
    adaptive = [pair.adaptive.usual(unit) for pair in pairs]
    share = sum(adaptive) / (len(pairs) * single.reloads * unit["reload_process"])
    peaks = [100 * pair.adaptive.peak_gb / BUDGET_GB for pair in pairs]
    more = [pair.adaptive.reloads - pair.foreseen for pair in pairs]
    return Report(
        [
            *(_figure(pair, unit) for pair in pairs),
            Figure(f"all, of a single interval ({single.interval})", [share], "", Goal(0.5)),
            Figure("reloads more than foreseen, most", [max(more)], "", Goal(1)),
            Figure("adaptive: peak, of the budget, highest", [max(peaks)], "%", Goal(100)),
            *(Figure(f"one {rung}", [seconds], "s") for rung, seconds in unit.items()),
        ],
        raw={
            "single": vars(single),
            "pairs": [_raw(pair, unit) for pair in pairs],
        },
    )


def _figure(pair: Pair, unit: Mapping[str, float]) -> Figure:
    ratio = pair.adaptive.usual(unit) / pair.interval.usual(unit)
    return Figure(pair.line(), [ratio], "", Goal(1.1))


def _raw(pair: Pair, unit: Mapping[str, float]) -> dict[str, Any]:
    sides = {"adaptive": pair.adaptive, "interval": pair.interval}
    return {"fault": pair.fault} | {
        name: vars(taken) | {"total": taken.total, "usual": taken.usual(unit)}
        for name, taken in sides.items()
    }


def _unit(runs: Sequence[Taken]) -> dict[str, float]:
    """Median seconds of each rung."""
    seen: dict[str, list[float]] = defaultdict(list)
    for taken in runs:
        for rung, seconds in taken.seconds.items():
            seen[rung].extend(seconds)
    return {rung: median(seconds) for rung, seconds in seen.items()}


# --- Runs ---------------------------------------------------------------------------------------


def _words(fault: str, steps: int, *more: str) -> list[str]:
    return [f"fault={fault}", f"train.steps={steps}", *COMMON, *more]


def _pair(workspace: Workspace, fault: str, steps: int) -> tuple[Pair, Path]:
    """The runs of one growth mode, and the folder of the one without reloads."""
    budget = f"memory.budget_gb={BUDGET_GB}"
    none = workspace.start_train(*_words(fault, RECORDED, "reload=none", "memory.budget_gb=2"))
    adaptive = workspace.start_train(*_words(fault, steps, "reload=adaptive", budget))
    recorded, adapted = workspace.run_of(none).folder, _taken(workspace.run_of(adaptive), 0)
    pair = Pair(fault, adapted, _best_interval(workspace, fault, steps, recorded))
    say(pair.line())
    return pair, recorded


def _taken(run: Run, interval: int) -> Taken:
    seconds: dict[str, list[float]] = defaultdict(list)
    for event in run.events("remedy"):
        seconds[event["remedy"]].append(event["seconds"])
    for event in run.events("reload"):
        parts = (max(part, 0.0) for part in event["seconds"].values())
        seconds[f"reload_{event['method']}"].append(sum(parts))
    peak = max(run.column("memory/process_gb"))
    by_budget = [e for e in run.events("reload") if e["reason"] == "budget"]
    return Taken(interval, peak, dict(seconds), peak <= BUDGET_GB and not by_budget)


def _best_interval(workspace: Workspace, fault: str, steps: int, recorded: Path) -> Taken:
    """The run with the largest interval that stays in the budget."""
    for method in METHODS:
        interval = max(_that_fit(recorded, steps, method), default=0)
        if interval:
            return _largest(workspace, fault, steps, method, interval)
    raise SystemExit(f"{fault}: no interval stays in the budget")


def _that_fit(recorded: Path, steps: int, method: str) -> Iterator[int]:
    """Intervals whose predicted peak is within the budget."""
    every = ",".join(map(str, range(5, min(steps, RECORDED))))
    words = ["reload=interval", f"reload.interval_steps={every}", f"reload.method={method}"]
    study = study_of(recorded, [*words, f"memory.budget_gb={BUDGET_GB}", f"train.steps={steps}"])
    return (o.setting.config.reload.interval_steps for o in study.outcomes if _fits(o))


def _fits(outcome: Outcome) -> bool:
    predicted = outcome.predicted
    return predicted.peak_gb <= BUDGET_GB and "budget" not in predicted.reloads


def _largest(workspace: Workspace, fault: str, steps: int, method: str, interval: int) -> Taken:
    """The first run that stays in the budget, of intervals that become smaller."""
    for _ in range(TRIES):
        words = ("reload=interval", f"reload.method={method}", f"memory.budget_gb={BUDGET_GB}")
        every = f"reload.interval_steps={interval}"
        taken = _taken(workspace.train(*_words(fault, steps, every, *words)), interval)
        if taken.within:
            return taken
        say(f"{fault}: interval {interval} peaks at {taken.peak_gb:.4f} GB")
        interval -= max(1, math.floor((taken.peak_gb - BUDGET_GB) * 1024 / MB_PER_STEP))
    raise SystemExit(f"{fault}: no interval near {interval} stays in the budget")


def _best_single(workspace: Workspace, steps: int, recorded: Mapping[str, Path]) -> Taken:
    """By process, which gives every growth mode back; trained where memory grows fastest."""
    largest = {f: max(_that_fit(path, steps, "process")) for f, path in recorded.items()}
    fastest = min(largest, key=largest.__getitem__)
    return _largest(workspace, fastest, steps, "process", largest[fastest])
