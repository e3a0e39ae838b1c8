"""The cost of a reload, in process and by process, and of each part of it.

A reload every few steps, W&B offline, models and methods interleaved. 'gap' is from the end of the
last step before to the start of the first step after, by the times in the rows. The parts are those
of the reload events: save, drop (by process: with the old interpreter's end and the new one's
start), load, and first_step, the excess of the first step after over the median step. SmolLM2 has
short sequences, which only first_step depends on.
"""

from __future__ import annotations

from benchmarks.report import Figure, Report
from benchmarks.workspace import Options, Run, Workspace, say, smollm2, undisturbed

ROUNDS, EVERY = 3, 6
PARTS = ("save", "drop", "load", "first_step")


def measure(workspace: Workspace, options: Options) -> Report:
    """Every model with every method."""
    steps, rounds = options.steps or 3 * EVERY, options.rounds or ROUNDS
    models = {"default": [], "SmolLM2 LoRA": smollm2(length=64)}
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for model, overrides in models.items():
            for method in ("in_process", "process"):
                run = workspace.train(
                    *overrides,
                    *undisturbed(steps),
                    *("reload=interval", f"reload.interval_steps={EVERY}"),
                    f"reload.method={method}",
                )
                for part, seconds in costs(run).items():
                    found.setdefault(f"{model}, {method}: {part}", []).extend(seconds)
    figures = [Figure(name, [s * 1000 for s in seconds], "ms") for name, seconds in found.items()]
    return Report(figures)


def costs(run: Run) -> dict[str, list[float]]:
    """Seconds of each part, one for each reload."""
    events = run.events("reload")
    parts = {f"  {part}": [event["seconds"][part] for event in events] for part in PARTS}
    return {"gap": [gap(run, event["step"]) for event in events], **parts}


def gap(run: Run, step: int) -> float:
    """Seconds from the end of a step to the start of the next."""
    before, after = run.rows[step - 1], run.rows[step]
    return after["time"] - after["step_seconds"] - before["time"]
