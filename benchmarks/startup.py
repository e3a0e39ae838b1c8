"""From the start of ``python train.py`` to the start of its first step.

The user's own command with W&B offline; bytecode and data index exist already. A row's time counts
from the run's start, which is the mtime of config.yaml: that, plus the first row's time, less its
step_seconds, less the clock just before the command was started. 'no W&B' is the same with
tracker=none. 'alone' are the parts of a worker's start without a supervisor.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Figure, Goal, Report
from benchmarks.workspace import Options, Run, Workspace, open_data_of, say, smollm2, undisturbed

ROUNDS = 7


def measure(workspace: Workspace, options: Options) -> Report:
    """Both models, with and without W&B, round after round."""
    models = {"default": ([], Goal(1.0)), "SmolLM2": (smollm2(), Goal(3.0))}
    rounds = options.rounds or ROUNDS
    whole: dict[str, list[float]] = {}
    parts: dict[str, list[float]] = {}
    for number in range(rounds + 1):  # the first one warms the caches
        say(f"round {number} of {rounds}")
        for model, (overrides, _) in models.items():
            run = workspace.train(*overrides, *undisturbed(1))
            bare = workspace.train(*overrides, *undisturbed(1), "tracker=none")
            found = {model: first_step(run), f"{model}, no W&B": first_step(bare)}
            inside = parts_of(run) | workspace.child(
                "startup", run.folder / "config.yaml", time.time()
            )
            if number:
                for name, seconds in found.items():
                    whole.setdefault(name, []).append(seconds)
                for name, seconds in inside.items():
                    parts.setdefault(f"  {model}: {name}", []).append(seconds)
    goals = {model: goal for model, (_, goal) in models.items()}
    figures = [Figure(name, values, "s", goals.get(name)) for name, values in whole.items()]
    figures += [Figure(name, values, "s") for name, values in parts.items()]
    return Report(figures)


def first_step(run: Run) -> float:
    """Seconds from the command to the start of its first step."""
    row = run.rows[0]
    return run.epoch(row["time"]) - row["step_seconds"] - run.started.began


def parts_of(run: Run) -> dict[str, float]:
    """The same seconds by part, from the files of the run."""
    row, ready = run.rows[0], run.events("worker_started")[0]["time"]
    return {
        "Hydra, composing, looking at the machine": run.epoch(0) - run.started.began,
        "worker started to ready": ready,
        "ready to first step": row["time"] - row["step_seconds"] - ready,
    }


def main(arguments: Sequence[str]) -> None:
    """Time the parts of a worker's start; arguments: CONFIG, and when this process was started."""
    marks = {"interpreter": time.time()}

    from lab.train import worker

    marks["import"] = time.time()
    from lab.config.keys import Config
    from lab.train import memory
    from lab.train.session import Session, TrainingContext

    config = Config.load(Path(arguments[0]))
    memory.set_limits(config.memory)
    data, folder = open_data_of(config)
    vocab_size = data.train_samples.tokenizer.vocab_size
    marks["data"] = time.time()
    Session(TrainingContext(config, data, (), folder, vocab_size))
    marks["model"] = time.time()
    assert worker
    print(
        json.dumps(
            {
                "alone: interpreter, import lab.train.worker": marks["import"]
                - float(arguments[1]),
                "alone: config, tokenizer, data": marks["data"] - marks["import"],
                "alone: model, optimizer": marks["model"] - marks["data"],
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
