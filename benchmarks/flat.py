"""Whether memory stays flat over ``experiment=stress_10000`` with the default model.

W&B offline. Slopes are Theil-Sen estimates of memory/process_gb over steps, for the whole run and
for each stretch between reloads, in each case without the first 10 steps.
"""

from __future__ import annotations

from itertools import groupby

from benchmarks.report import Figure, Goal, Report
from benchmarks.workspace import Options, Run, Workspace, say
from lab.config.units import GB, MB
from lab.records.slope import WARM_UP_STEPS, theil_sen

GOAL = Goal(0.01)

Point = tuple[int, float]


def measure(workspace: Workspace, options: Options) -> Report:
    """One long run, of ``options.steps`` steps where given."""
    steps = options.steps or 10_000
    say(f"{steps} steps; about a minute for each 1,000")
    run = workspace.train("experiment=stress_10000", f"train.steps={steps}")
    process = run.column("memory/process_gb")
    return Report(
        [
            Figure("slope of the whole", [theil_sen(points(run)[WARM_UP_STEPS:])], "MB/step", GOAL),
            Figure("slope between reloads", slopes(run), "MB/step", GOAL),
            Figure("slope of the second half", [theil_sen(points(run)[steps // 2 :])], "MB/step"),
            Figure("process memory after 100 steps", [process[min(100, steps) - 1]], "GB"),
            Figure("process memory at the end", [process[-1]], "GB"),
            Figure("reloads", [len(run.events("reload"))]),
            Figure("wall time", [run.seconds], "s"),
        ],
        {"process_gb": process[:: max(1, steps // 200)]},
    )


def points(run: Run) -> list[Point]:
    """Step and process memory in MB of every row."""
    return [(row["step"], row["memory/process_gb"] * GB / MB) for row in run.rows]


def slopes(run: Run) -> list[float]:
    """The slope in MB per step of each stretch between reloads that is long enough to have one."""
    stretches = groupby(
        zip(run.rows, points(run), strict=True),
        key=lambda pair: (pair[0]["reload/count"], pair[0]["reload/generation"]),
    )
    within = [[point for _, point in stretch][WARM_UP_STEPS:] for _, stretch in stretches]
    return [theil_sen(stretch) for stretch in within if len(stretch) > WARM_UP_STEPS]
