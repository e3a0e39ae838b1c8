"""The cost of losing nothing: checkpoints, a respawn, and the recovery from kill -9.

Checkpoints: their share of a run of the default model at its own interval, W&B offline. Respawn:
reload.method=process, from the end of the last step before to the start of the first step after.
Recovery: the worker is killed after a step; from the worker_died event to the next worker_started.
The replay of the steps since the checkpoint, which follows, is not included.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.reload import costs
from benchmarks.report import Figure, Goal, Report
from benchmarks.workspace import Options, Run, Workspace, say, smollm2, undisturbed
from lab.records.rows import read_jsonl

ROUNDS, EVERY, STEPS = 3, 6, 600
GOALS_MS = {"default": 300, "SmolLM2 LoRA": 1500}


def measure(workspace: Workspace, options: Options) -> Report:
    """Both models, round after round."""
    models = {"default": [], "SmolLM2 LoRA": smollm2(length=64)}
    found: dict[str, list[float]] = {}
    shares: list[float] = []
    rounds = options.rounds or ROUNDS
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        long = workspace.train(
            "train.val_interval_steps=0", f"train.steps={options.steps or STEPS}"
        )
        shares.append(100 * share_of_checkpoints(long))
        for model, overrides in models.items():
            reloads = ("reload=interval", f"reload.interval_steps={EVERY}", "reload.method=process")
            run = workspace.train(*overrides, *undisturbed(3 * EVERY), *reloads)
            for part, seconds in costs(run).items():
                found.setdefault(f"{model}: respawn, {part.strip()}", []).extend(seconds)
            seconds = recovery(workspace, [*overrides, *undisturbed(3 * EVERY)])
            found.setdefault(f"{model}: recovery after kill -9", []).append(seconds)
    figures = [
        Figure(name, [s * 1000 for s in seconds], "ms", _goal(name))
        for name, seconds in found.items()
    ]
    return Report([Figure("checkpoints, share of a run", shares, "%", Goal(2)), *figures])


def _goal(name: str) -> Goal | None:
    model, _, what = name.partition(": ")
    return Goal(GOALS_MS[model]) if "gap" in what or "kill" in what else None


def share_of_checkpoints(run: Run) -> float:
    seconds = sum(e["seconds"] for e in run.events("checkpoint"))
    return seconds / (run.rows[-1]["time"] - run.rows[0]["time"])


def recovery(workspace: Workspace, overrides: Sequence[str]) -> float:
    """Seconds from the death of a worker, killed while it trains, until the next one is ready."""
    started = workspace.start_train(*overrides, f"checkpoint.interval_steps={EVERY}")
    kill_worker(started.folder, after=EVERY + 2)
    run = workspace.run_of(started)
    [died], (_, next_worker) = run.events("worker_died"), run.events("worker_started")
    return next_worker["time"] - died["time"]


def kill_worker(folder: Path, *, after: int) -> None:
    while True:
        for metrics in folder.glob("outputs/runs/*/*/metrics.jsonl"):
            if sum(1 for _ in read_jsonl(metrics)) >= after:
                events = read_jsonl(metrics.with_name("events.jsonl"))
                [pid] = [e["pid"] for e in events if e["event"] == "worker_started"]
                os.kill(pid, signal.SIGKILL)
                return
        time.sleep(0.002)
