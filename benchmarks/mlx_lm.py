"""LoRA on SmolLM2-135M: speed and peak memory against an unchanged ``mlx_lm.lora``.

One epoch of 48 docstrings in batches of two, whose lengths are spread as those of all 4,000, with
the longest of all (they decide the peak); another seed each round. LoRA of rank 8 on the last 8 of
30 layers and on all 7 matrices of each (mlx-lm's default), AdamW, f32, prompts masked, no clipping,
OpenBLAS loaded, mlx-lm's kernels compiled beforehand, no validation. The sides are interleaved, a
second each; the time in which a side is stopped does not count. Speed is completion tokens, without
padding, per second from the end of the first step to the end of the last. Peaks are MLX's own:
mlx-lm's report, the lab's highest memory/peak_gb, in GB of 2^30 bytes.
"""

from __future__ import annotations

import json
import random
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.interleave import StartedProcess, interleave
from benchmarks.report import Figure, Goal, Report
from benchmarks.workspace import SMOLLM2, Options, Run, Workspace, ratios, say, smollm2, undisturbed
from lab.config.units import GB

ROUNDS, SAMPLES, LONGEST, BATCH = 2, 48, 4, 2
STEPS = SAMPLES // BATCH  # one epoch: both sides train on the same tokens, in batches of their own
RANK, SCALE, LAYERS, RATE, LENGTH = 8, 20.0, 8, 1e-5, 512
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Side = dict[str, float]  # speed, peak, tokens, loss


def measure(workspace: Workspace, options: Options) -> Report:
    """Both sides interleaved, once a round."""
    ours, steps = smollm2(layers=LAYERS, length=LENGTH), options.steps or STEPS
    data = make_data(workspace.folder / "data", source_of(workspace.train(*ours, *undisturbed(1))))
    say("mlx-lm compiles its kernels")
    workspace.answer_of(start_mlx_lm(workspace, data, seed=0, steps=3))
    lab, other = [], []
    rounds = options.rounds or ROUNDS
    for seed in range(rounds):
        say(f"round {seed + 1} of {rounds}")
        sides = (
            start_lab(workspace, ours, data, seed, steps),
            start_mlx_lm(workspace, data, seed, steps),
        )
        interleave(*sides)
        lab.append(side_of_lab(workspace.run_of(sides[0])))
        other.append(side_of_mlx_lm(sides[1], workspace.answer_of(sides[1])))
    column = {s: [side[s] for side in lab] for s in lab[0]}
    theirs = {s: [side[s] for side in other] for s in other[0]}
    speed, peak = ratios(column["speed"], theirs["speed"]), ratios(column["peak"], theirs["peak"])
    return Report(
        [
            Figure("speed, lab / mlx_lm.lora", speed, "", Goal(1.4, at_most=False)),
            Figure("peak memory, lab / mlx_lm.lora", peak, "", Goal(0.7)),
            Figure("lab: completion tokens a second", column["speed"]),
            Figure("mlx_lm.lora: completion tokens a second", theirs["speed"]),
            Figure("lab: peak", column["peak"], "GB"),
            Figure("mlx_lm.lora: peak", theirs["peak"], "GB"),
            Figure("lab: completion tokens in all", column["tokens"]),
            Figure("mlx_lm.lora: the same", theirs["tokens"]),
            Figure("lab: loss of the epoch", column["loss"]),
            Figure("mlx_lm.lora: loss of the epoch", theirs["loss"]),
        ],
        {"lab": lab, "mlx_lm": other},
    )


def source_of(run: Run) -> Path:
    """The file of stdlib docs, made by the given run."""
    from lab.data.sources import stdlib_docs_folder
    from lab.supervise.worker_process import cache_folder

    assert run.rows
    return stdlib_docs_folder(cache_folder()) / "train.jsonl"


def make_data(folder: Path, source: Path) -> Path:
    """Write a fixed subset of the samples as JSONL, stratified by length.

    Samples are sorted by tokens and cut into slices, and one is drawn from each. The ``LONGEST``
    few of all come in addition: they decide the peak of an epoch over all samples.
    """
    from lab.data.samples import tokenise
    from lab.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(SMOLLM2)
    lines = source.read_text().splitlines()
    length = {x: len(tokenise(json.loads(x), "completion", tokenizer, False)[0]) for x in lines}
    lines.sort(key=length.__getitem__)
    draw, count = random.Random(0), SAMPLES - LONGEST
    width = (len(lines) - LONGEST) / count
    chosen = [lines[int((i + draw.random()) * width)] for i in range(count)] + lines[-LONGEST:]
    draw.shuffle(chosen)
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(chosen) + "\n")
    (folder / "valid.jsonl").write_text("\n".join(chosen[:BATCH]) + "\n")
    return folder


def start_lab(
    workspace: Workspace, model: list[str], data: Path, seed: int, steps: int
) -> StartedProcess:
    return workspace.start_train(
        *(*model, *undisturbed(steps), f"seed={seed}", "tracker=none"),
        *("data=jsonl", f"data.path={data}", f"adapter.targets=[{','.join(TARGETS)}]"),
        *(f"adapter.alpha={SCALE * RANK}", f"optimizer.learning_rate={RATE}"),
        *("optimizer.bias_correction=false", "train.max_grad_norm=0"),
    )


def start_mlx_lm(workspace: Workspace, data: Path, seed: int, steps: int) -> StartedProcess:
    config = workspace.folder / "mlx_lm.json"
    lora = {"rank": RANK, "scale": SCALE, "dropout": 0.0}
    config.write_text(json.dumps({"lora_parameters": lora, "optimizer": "adamw"}))  # JSON is YAML
    return workspace.start_child(
        *("mlx_lm", "--train", "--mask-prompt", "--config", config),
        *("--model", SMOLLM2, "--data", data, "--adapter-path", workspace.folder / "adapter"),
        *("--iters", steps, "--batch-size", BATCH, "--max-seq-length", LENGTH, "--seed", seed),
        *("--num-layers", LAYERS, "--learning-rate", RATE, "--steps-per-report", 1),
        *("--val-batches", 0, "--save-every", steps, "--report-to", "wandb"),
    )


def side_of_lab(run: Run) -> Side:
    return _side(
        *(run.column("tokens"), run.column("loss"), run.cycles()),
        peak_gb=max(run.column("memory/peak_gb")),
    )


def side_of_mlx_lm(started: StartedProcess, reports: list[dict[str, Any]]) -> Side:
    rows = [row for row in reports if "train_loss" in row]
    # Its mask counts one pad token after each sample, and here every sample has one.
    tokens = [round(r["tokens_per_second"] / r["iterations_per_second"]) - BATCH for r in rows]
    return _side(
        *(tokens, [row["train_loss"] for row in rows]),
        started.intervals([row["reported_at"] for row in rows]),
        peak_gb=max(row["peak_memory"] for row in rows) * 1e9 / GB,
    )


def _side(tokens: list[int], losses: list[float], seconds: list[float], *, peak_gb: float) -> Side:
    """Figures of an epoch; ``seconds`` are from the end of each step to the end of the next."""
    return {
        "speed": sum(tokens[1:]) / sum(seconds),
        "peak": peak_gb,
        "tokens": sum(tokens),
        "loss": sum(a * b for a, b in zip(losses, tokens, strict=True)) / sum(tokens),
    }


def main(reports: list[dict[str, Any]]) -> None:
    """Run ``mlx_lm.lora`` with OpenBLAS; its reports go to a list instead of W&B."""
    from lab.machine.blas import preload_blas

    def log(row: dict[str, Any], **_: object) -> None:
        reports.append({**row, "reported_at": time.time()})

    preload_blas()
    wandb = ModuleType("wandb")
    wandb.__spec__ = ModuleSpec("wandb", None)
    wandb.__dict__.update(init=lambda **_: None, log=log)
    sys.modules["wandb"] = wandb
    from mlx_lm.lora import main

    main()


if __name__ == "__main__":
    kept: list[dict[str, Any]] = []
    main(kept)
    print(json.dumps(kept))
