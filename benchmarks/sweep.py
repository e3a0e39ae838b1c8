"""What a sweep costs beside its jobs, what two at a time win, and that all begin alike.

The default model. A sweep of four short jobs against the same four as commands of their own, in
turns; the difference by job. Then jobs on one thread each (worker.threads=1), two after one another
and two side by side (joblib), in turns: the ratio of their times is that of their throughput. And
the memory of the process at step 1 in every job of every sweep here, the highest over the lowest.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.place import Options, Place, Run, ratios, say, undisturbed
from benchmarks.report import Figure, Goal, Report

ROUNDS, STEPS, JOBS = 3, 400, 4
SIDE_BY_SIDE = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def measure(place: Place, options: Options) -> Report:
    """Each pair one after the other, round after round."""
    rounds = options.rounds or ROUNDS
    short, long = undisturbed(30), [*undisturbed(options.steps or STEPS), "worker.threads=1"]
    place.train(*short)  # the first run of all makes the data
    added, besides, serial, parallel = [], [], [], []
    first: list[float] = []
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        sweep = place.train(*short, "-m", f"seed={','.join(map(str, range(JOBS)))}")
        single = [place.train(*short, f"seed={seed}").seconds for seed in range(JOBS)]
        added.append((sweep.seconds - sum(single)) / JOBS)
        besides.append((sweep.seconds - sum(map(_total, _jobs(sweep)))) / JOBS)
        pair = (
            place.train(*long, "-m", "seed=1,2"),
            place.train(*long, "-m", "seed=1,2", *SIDE_BY_SIDE),
        )
        serial.append(pair[0].seconds)
        parallel.append(pair[1].seconds)
        first += [_first_memory(job) for run in (sweep, *pair) for job in _jobs(run)]
    return Report(
        [
            Figure("a job of a sweep, beyond the same job alone", added, "s", Goal(0.5)),
            Figure("a job of a sweep, beyond what summary.json calls its total", besides, "s"),
            Figure(
                "throughput, two jobs side by side / one after the other",
                ratios(serial, parallel), "", Goal(1.7, at_most=False),
            ),
            Figure("two jobs one after the other", serial, "s"),
            Figure("two jobs side by side", parallel, "s"),
            Figure(
                "memory at step 1, highest / lowest of all jobs",
                [max(first) / min(first)], "", Goal(1.02),
            ),
        ],
        {"memory_at_step_1_gb": first},
    )  # fmt: skip


def _jobs(sweep: Run) -> list[Path]:
    return [path.parent for path in sweep.started.folder.glob("outputs/sweeps/*/*/*/summary.json")]


def _total(job: Path) -> float:
    summary: dict[str, Any] = json.loads((job / "summary.json").read_text())
    return summary["seconds"]["total"]


def _first_memory(job: Path) -> float:
    with (job / "metrics.jsonl").open() as file:
        return json.loads(file.readline())["memory/process_gb"]
