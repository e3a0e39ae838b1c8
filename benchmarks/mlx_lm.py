"""LoRA on SmolLM2-135M: speed and peak memory against ``mlx_lm.lora``, its code unchanged.

Both sides in turns, another seed each round: one epoch of 48 docstrings in batches of two, spread
in length as all 4,000 are, the longest of them included (they decide the peak). LoRA of rank 8 on
the last 8 of 30 layers and on all 7 matrices of each (mlx-lm's default), AdamW, f32, prompts
masked, no clipping, OpenBLAS loaded. Tokens are completion tokens without padding; the first step
of both sides is left out. mlx-lm: time and peak as it reports them itself for each step, without
the making of batches, without validation, its kernels compiled beforehand. The lab: wall time from
row to row with everything in it, and its highest memory/peak_gb. A GB is 2^30 bytes.
"""

from __future__ import annotations

import json
import random
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.place import SMOLLM2, Options, Place, Run, ratios, say, smollm2, undisturbed
from benchmarks.report import Figure, Goal, Report

ROUNDS, SAMPLES, LONGEST, BATCH = 2, 48, 4, 2
STEPS = SAMPLES // BATCH  # one epoch: both sides train on the same tokens, in batches of their own
SKIPPED = 1  # the first step compiles or allocates
RANK, SCALE, LAYERS, RATE, LENGTH = 8, 20.0, 8, 1e-5, 512
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Side = dict[str, float]  # speed, peak, tokens, loss


def measure(place: Place, options: Options) -> Report:
    """Both sides in turns, the one that begins changing."""
    ours, steps = smollm2(layers=LAYERS, length=LENGTH), options.steps or STEPS
    data = make_data(place.folder / "data", source_of(place.train(*ours, *undisturbed(1))))
    say("mlx-lm compiles its kernels")
    train_mlx_lm(place, data, seed=0, steps=3)
    lab, other = [], []
    rounds = options.rounds or ROUNDS
    for seed in range(rounds):
        say(f"round {seed + 1} of {rounds}")
        for side in ("lab", "mlx_lm") if seed % 2 else ("mlx_lm", "lab"):
            if side == "lab":
                lab.append(train_lab(place, ours, data, seed=seed, steps=steps))
            else:
                other.append(train_mlx_lm(place, data, seed=seed, steps=steps))
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
    """The stdlib docs that a run has just trained on."""
    from lab.data.sources import stdlib_docs_folder
    from lab.experiment import cache_folder

    assert run.rows
    return stdlib_docs_folder(cache_folder()) / "train.jsonl"


def make_data(folder: Path, source: Path) -> Path:
    """A folder of JSONL with a fixed subset, spread in length as the whole.

    Sorted by tokens and cut into slices, one sample drawn from each; and the longest few of all,
    for they decide the peak of an epoch of the whole.
    """
    from lab.data import load_tokenizer
    from lab.data.samples import tokenise

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


def train_lab(place: Place, model: list[str], data: Path, *, seed: int, steps: int) -> Side:
    """An epoch in the lab."""
    run = place.train(
        *(*model, *undisturbed(steps), f"seed={seed}", "tracker=none"),
        *("data=jsonl", f"data.path={data}", f"adapter.targets=[{','.join(TARGETS)}]"),
        *(f"adapter.alpha={SCALE * RANK}", f"optimizer.learning_rate={RATE}"),
        *("optimizer.bias_correction=false", "train.max_grad_norm=0"),
    )
    tokens = run.column("tokens")
    return {
        "speed": sum(tokens[SKIPPED:]) / sum(run.cycles()[SKIPPED - 1 :]),
        "peak": max(run.column("memory/peak_gb")),
        "tokens": sum(tokens),
        "loss": sum(r["loss"] * r["tokens"] for r in run.rows) / sum(tokens),
    }


def train_mlx_lm(place: Place, data: Path, *, seed: int, steps: int) -> Side:
    """The same epoch with ``mlx_lm.lora``, by its own reports."""
    config = place.folder / "mlx_lm.json"
    lora = {"rank": RANK, "scale": SCALE, "dropout": 0.0}
    config.write_text(json.dumps({"lora_parameters": lora, "optimizer": "adamw"}))  # JSON is YAML
    rows: list[dict[str, Any]] = place.child(
        *("mlx_lm", "--train", "--mask-prompt", "--config", config),
        *("--model", SMOLLM2, "--data", data, "--adapter-path", place.folder / "adapter"),
        *("--iters", steps, "--batch-size", BATCH, "--max-seq-length", LENGTH, "--seed", seed),
        *("--num-layers", LAYERS, "--learning-rate", RATE, "--steps-per-report", 1),
        *("--val-batches", 0, "--save-every", steps, "--report-to", "wandb"),
    )
    rows = [row for row in rows if "train_loss" in row]
    # Its mask takes in one pad token after each sample, and here every sample has one.
    tokens = [round(r["tokens_per_second"] / r["iterations_per_second"]) - BATCH for r in rows]
    seconds = [1 / row["iterations_per_second"] for row in rows]
    return {
        "speed": sum(tokens[SKIPPED:]) / sum(seconds[SKIPPED:]),
        "peak": max(row["peak_memory"] for row in rows) * 1e9 / 2**30,
        "tokens": sum(tokens),
        "loss": sum(r["train_loss"] * t for r, t in zip(rows, tokens, strict=True)) / sum(tokens),
    }


def main(reports: list[dict[str, Any]]) -> None:
    """``mlx_lm.lora``, with OpenBLAS, and with a list in the place of W&B."""
    from lab.machine import preload_blas

    preload_blas()
    wandb = ModuleType("wandb")
    wandb.__spec__ = ModuleSpec("wandb", None)
    wandb.__dict__.update(init=lambda **_: None, log=lambda row, **_: reports.append(row))
    sys.modules["wandb"] = wandb
    from mlx_lm.lora import main

    main()


if __name__ == "__main__":
    kept: list[dict[str, Any]] = []
    main(kept)
    print(json.dumps(kept))
