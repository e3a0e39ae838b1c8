"""Whether each growth mode is named right, and after how many steps: real runs of the tiny model.

Each of the growth modes of ``lab.faults`` is put into ``--rounds`` runs of other seeds (20) at
1 MB a step from step 30 on. A diagnosis is right if ``explain.json`` names kind, holder and remedy
as ``lab.faults.truth`` has them; steps are counted from the event ``fault_armed``.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.report import Figure, Goal, Report
from benchmarks.workspace import Options, Run, Workspace, say
from lab.faults.truth import TRUTHS, Truth

SEEDS, SIDE_BY_SIDE = 20, 2
STEPS, START = 60, 30
MOST_STEPS = 15


@dataclass(frozen=True)
class Diagnosis:
    """What one run was told about its growth.

    Attributes:
        steps: from the fault's first step to the census's report; None without one.
        wrong: what is not as the truth has it, empty if nothing is.
    """

    steps: int | None
    wrong: str


def measure(workspace: Workspace, options: Options) -> Report:
    """All growth modes."""
    say(f"{len(TRUTHS)} growth modes, {options.rounds or SEEDS} seeds each")
    return Report(
        [
            figure
            for name, truth in TRUTHS.items()
            for figure in figures(workspace, name, truth, options)
        ]
    )


def figures(workspace: Workspace, name: str, truth: Truth, options: Options) -> list[Figure]:
    """How many runs of one growth mode are right, and after how many steps."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        seeds = range(options.rounds or SEEDS)
        found = list(pool.map(partial(diagnose, workspace, name, truth), seeds))
    for seed, one in enumerate(found):
        if one.wrong:
            say(f"{name}, seed {seed}: {one.wrong}")
    right = [one for one in found if not one.wrong]
    steps = [one.steps for one in found if one.steps is not None]
    return [
        Figure(f"{name}: right", [len(right)], f"of {len(found)}", Goal(len(found), False)),
        Figure(f"{name}: slowest", [max(steps, default=STEPS)], "steps", Goal(MOST_STEPS)),
    ]


def diagnose(workspace: Workspace, name: str, truth: Truth, seed: int) -> Diagnosis:
    run = workspace.train(
        *(f"train.steps={STEPS}", "reload=none", "checkpoint.interval_steps=0", f"seed={seed}"),
        *(f"fault={name}", f"fault.{name}.start_step={START}", "tracker=none"),
    )
    path = run.folder / "explain.json"
    if not path.is_file():
        return Diagnosis(None, "nothing was explained")
    found = json.loads(path.read_text())
    return Diagnosis(found["step"] - armed_at(run), what_is_wrong(found, truth))


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
