"""The overhead of a sweep per job, the throughput of two jobs at once, the memory each starts with.

The default model. A sweep of four short jobs against the same four as commands of their own,
interleaved; the difference per job. Then jobs on one thread each (worker.threads=1), two one after
the other against two side by side (joblib), interleaved: the ratio of their times is that of their
throughput. And the process memory at step 1 in every job of every sweep here, the highest over the
lowest: each job starts in a fresh process.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.report import Figure, Goal, Report
from benchmarks.workspace import Options, Run, Workspace, ratios, say, undisturbed

ROUNDS, STEPS, JOBS = 3, 400, 4
SIDE_BY_SIDE = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def measure(workspace: Workspace, options: Options) -> Report:
    """Each pair one after the other, round after round."""
    rounds = options.rounds or ROUNDS
    short, long = undisturbed(30), [*undisturbed(options.steps or STEPS), "worker.threads=1"]
    workspace.train(*short)  # the first run makes the data
    added, besides, serial, parallel = [], [], [], []
    first: list[float] = []
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        sweep = workspace.train(*short, "-m", f"seed={','.join(map(str, range(JOBS)))}")
        single = [workspace.train(*short, f"seed={seed}").seconds for seed in range(JOBS)]
        added.append((sweep.seconds - sum(single)) / JOBS)
        besides.append((sweep.seconds - sum(map(_total, _jobs(sweep)))) / JOBS)
        pair = (
            workspace.train(*long, "-m", "seed=1,2"),
            workspace.train(*long, "-m", "seed=1,2", *SIDE_BY_SIDE),
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
