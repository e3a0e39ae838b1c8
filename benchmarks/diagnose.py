"""Whether each growth mode is named right, and after how many steps: real runs of the tiny model.

Each of the growth modes of ``lab.faults`` is put into ``--rounds`` runs of other seeds (20) at
1 MB a step from step 30 on; a run ends when it is told. A diagnosis is right if ``explain.json``
names kind, holder and remedy as ``lab.faults.truth`` has them; steps are counted from the event
``fault_armed``.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from benchmarks.report import Figure, Goal, Report
from benchmarks.workspace import RUNS, Options, Run, Workspace, say
from lab.faults.truth import TRUTHS, Truth
from lab.records.slope import WARM_UP_STEPS

SIDE_BY_SIDE = os.cpu_count() or 1  # runs of one thread each


@dataclass(frozen=True)
class Shape:
    """Runs of one model at one rate.

    Attributes:
        start: the fault's first step.
        within: steps from there on, the goal.
        searched: steps from there on after which a run ends untold.
        seeds: by default.
        quiet_mb: noise above which the goal is in proportion to its square.
    """

    mb_per_step: float
    start: int
    within: int
    searched: int
    seeds: int
    overrides: Sequence[str] = ()
    quiet_mb: float = math.inf


TINY = Shape(1.0, start=30, within=15, searched=30, seeds=20)


@dataclass(frozen=True)
class Diagnosis:
    """What one run was told about its growth.

    Attributes:
        steps: from the fault's first step to the census's report; None without one.
        wrong: what is not as the truth has it, empty if nothing is.
        noise: of the memory that grew, before it did, in MB a reading.
    """

    steps: int | None
    wrong: str
    noise: float


def measure(workspace: Workspace, options: Options) -> Report:
    """All growth modes."""
    return diagnoses(workspace, options, TINY)


def diagnoses(workspace: Workspace, options: Options, shape: Shape) -> Report:
    """All growth modes in runs of one shape."""
    seeds = range(options.rounds or shape.seeds)
    say(f"{len(TRUTHS)} growth modes, {len(seeds)} seeds each, {SIDE_BY_SIDE} runs side by side")
    figures: list[Figure] = []
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        running = {
            (name, seed): pool.submit(diagnose, workspace, name, truth, shape, seed)
            for name, truth in TRUTHS.items()
            for seed in seeds
        }
        for name in TRUTHS:
            found = [running[name, seed].result() for seed in seeds]
            figures += figures_of(name, found, shape)
            say(f"{name}: {sum(not one.wrong for one in found)} of {len(found)}")
    return Report(figures)


def figures_of(name: str, found: Sequence[Diagnosis], shape: Shape) -> list[Figure]:
    """How many runs of one growth mode are right, and after how many steps."""
    for seed, one in enumerate(found):
        if one.wrong:
            say(f"{name}, seed {seed}: {one.wrong}")
    right = [one for one in found if not one.wrong]
    steps = [one.steps or shape.searched for one in found]
    noise = max(one.noise for one in found)
    within = shape.within * max(1.0, (noise / shape.quiet_mb) ** 2)
    return [
        Figure(f"{name}: right", [len(right)], f"of {len(found)}", Goal(len(found), False)),
        Figure(f"{name}: slowest", [max(steps)], f"steps, noise {noise:.2g} MB", Goal(within)),
    ]


def diagnose(workspace: Workspace, name: str, truth: Truth, shape: Shape, seed: int) -> Diagnosis:
    run = train_until_told(
        workspace,
        *(f"train.steps={shape.start + shape.searched}", f"seed={seed}"),
        *("reload=none", "checkpoint.interval_steps=0", "tracker=none", "worker.threads=1"),
        *(f"fault={name}", f"fault.{name}.start_step={shape.start}"),
        *(f"fault.{name}.mb_per_step={shape.mb_per_step}", *shape.overrides),
    )
    figure = truth.seen_by[0].replace("mlx", "cache")
    noise = noise_mb(run.column(f"memory/{figure}_gb")[WARM_UP_STEPS : shape.start - 1])
    path = run.folder / "explain.json"
    if not path.is_file():
        return Diagnosis(None, "nothing was explained", noise)
    found = json.loads(path.read_text())
    return Diagnosis(found["step"] - armed_at(run), what_is_wrong(found, truth), noise)


def train_until_told(workspace: Workspace, *overrides: str) -> Run:
    """A run that is interrupted once it has explained its growth."""
    started = workspace.start_train(*overrides)
    while started.process.poll() is None:
        if any(started.folder.glob(f"{RUNS}/*/*/explain.json")):
            started.process.send_signal(signal.SIGINT)
            started.process.wait()
            return Run(started, time.time() - started.began)
        time.sleep(0.1)
    return workspace.run_of(started)


def noise_mb(column: Sequence[float | None]) -> float:
    """Standard deviation of a reading about its trend, from how successive changes differ."""
    values = [value * 1024 for value in column if value is not None]
    changes = [after - before for before, after in pairwise(values)]
    usual = median(changes)
    return (
        math.sqrt(math.pi / 2) / math.sqrt(2) * sum(abs(c - usual) for c in changes) / len(changes)
    )


def armed_at(run: Run) -> int:
    return run.events("fault_armed")[0]["step"]


def what_is_wrong(found: dict[str, Any], truth: Truth) -> str:
    """What of a diagnosis is not the truth, in words; empty if nothing is."""
    checks = {
        "kind": found["kind"] == truth.kind,
        "holder": truth.holder is None or truth.holder in str(found["holder"]),
        "remedy": found["remedy"] == truth.remedy,
    }
    return ", ".join(f"{key} {found[key]}" for key, is_right in checks.items() if not is_right)
