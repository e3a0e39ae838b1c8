"""The time of a step: the lab, all of it, against a bare MLX loop over the same batches.

A run of the lab with supervisor, probe, records, cache clearing and W&B offline; and, from its
config.yaml, a loop written by hand in a process of its own: batches made beforehand,
value_and_grad, clipping, AdamW, mx.eval, nothing else, and MLX's own limits. Compared is the wall
time from step to step, not step_seconds, so that all that the lab does between steps counts. Each
step is paired with the same step of the other side; a round's figure is the median of its pairs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.place import Options, Place, Run, ratios, say, smollm2, undisturbed
from benchmarks.report import Figure, Goal, Report

Pair = tuple[Run, dict[str, list[float]]]  # a run, and the loop's seconds and losses

ROUNDS = 5
GOAL = Goal(1.03)
SKIPPED = 5  # steps at the start, which allocate


def measure(place: Place, options: Options) -> Report:
    """Both models; steps are the default model's, of the other it does an eighth."""
    steps, rounds = options.steps or 120, options.rounds or ROUNDS
    few = [*smollm2(length=256), *undisturbed(max(steps // 8, 3 * SKIPPED))]
    return Report(
        [
            *_figures("default", _pairs(place, undisturbed(steps), rounds)),
            *_figures("SmolLM2 LoRA", _pairs(place, few, rounds)),
        ]
    )


def _pairs(place: Place, overrides: list[str], rounds: int) -> list[Pair]:
    """Pairs of runs, the side that begins changing."""
    pairs: list[Pair] = []
    for number in range(rounds):
        say(f"{overrides[0]}: round {number + 1} of {rounds}")
        first = place.child("bare_loop", pairs[0][0].folder / "config.yaml") if number % 2 else None
        run = place.train(*overrides)
        pairs.append((run, first or place.child("bare_loop", run.folder / "config.yaml")))
    return pairs


def _figures(model: str, pairs: list[Pair]) -> list[Figure]:
    lab = [run.cycles()[SKIPPED:] for run, _ in pairs]
    other = [bare["seconds"][SKIPPED + 1 :] for _, bare in pairs]
    both = list(zip(lab, other, strict=True))
    apart = [
        max(abs((a or 0.0) - b) for a, b in zip(run.column("loss"), bare["losses"], strict=True))
        for run, bare in pairs
    ]
    steps = [median(ratios(*pair)) for pair in both]
    return [
        Figure(f"{model}: step, lab / bare loop", steps, "", GOAL),
        Figure(f"{model}: sum of all steps, lab / bare loop", [sum(a) / sum(b) for a, b in both]),
        Figure(f"{model}: step of the bare loop", [1000 * median(b) for b in other], "ms"),
        Figure(f"{model}: largest difference of a loss", apart, "", Goal(0)),
    ]


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """The loop: CONFIG in, seconds and loss of each step out."""
    from lab.machine import preload_blas

    preload_blas()
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim

    from lab import models
    from lab.config import Config
    from lab.data import load_tokenizer, open_data
    from lab.experiment import cache_folder

    config = Config.load(Path(arguments[0]))
    folder = models.folder_of(config.model)
    tokenizer = load_tokenizer(folder)
    data = open_data(config.data, config.train, config.seed, tokenizer, cache_folder())
    batches = [data.train.step(step)[0] for step in range(1, config.train.steps + 1)]

    mx.random.seed(config.seed)
    model = models.build_model(
        *(config.model, config.adapter),
        folder=folder,
        vocab_size=tokenizer.vocab_size,
        dtype=getattr(mx, config.train.dtype),
    )
    rule = config.optimizer
    optimizer = optim.AdamW(
        rule.learning_rate,
        betas=[rule.beta1, rule.beta2],
        weight_decay=rule.weight_decay,
        bias_correction=rule.bias_correction,
    )

    def loss(
        inputs: mx.array, rows: mx.array, targets: mx.array, weights: mx.array, total: mx.array
    ) -> mx.array:
        hidden = model.model(inputs)
        hidden = hidden.reshape(-1, hidden.shape[-1])[rows][None]
        logits = model.model.embed_tokens.as_linear(hidden)[0]
        return (nn.losses.cross_entropy(logits, targets) * weights).sum() / total

    step = nn.value_and_grad(model, loss)
    seconds, losses = [], []
    for batch in batches:
        began = time.perf_counter()
        arrays = [mx.array(a) for a in (batch.inputs, batch.rows, batch.targets, batch.weights)]
        value, grads = step(*arrays, mx.array(batch.num_tokens, mx.float32))
        grads, _ = optim.clip_grad_norm(grads, config.train.max_grad_norm)
        optimizer.update(model, grads)
        mx.eval(value, model.trainable_parameters(), optimizer.state)
        losses.append(value.item())
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds, "losses": losses}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
