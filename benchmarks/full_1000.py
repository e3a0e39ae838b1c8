"""``experiment=full_1000`` with the default model: how long it takes, and what it learns.

From the command to the end of its process, with W&B offline, summary and picture. Losses are means
over 20 steps.
"""

from __future__ import annotations

from statistics import mean

from benchmarks.report import Figure, Goal, Report
from benchmarks.workspace import Options, Run, Workspace, say

MINUTES, EDGE = 5, 20


def measure(workspace: Workspace, options: Options) -> Report:
    """The whole run, ``options.rounds`` times."""
    runs: list[Run] = []
    for number in range(options.rounds or 1):
        say(f"run {number + 1}")
        runs.append(workspace.train("experiment=full_1000"))
    losses = [run.column("loss") for run in runs]
    falls = [mean(loss[-EDGE:]) / mean(loss[:EDGE]) for loss in losses]
    return Report(
        [
            Figure("wall time", [run.seconds for run in runs], "s", Goal(60 * MINUTES)),
            Figure("last loss / first loss", falls, "", Goal(0.5)),
            Figure("first loss", [mean(loss[:EDGE]) for loss in losses]),
            Figure("last loss", [mean(loss[-EDGE:]) for loss in losses]),
            Figure("reloads", [len(run.events("reload")) for run in runs]),
        ],
    )
