"""The time of a step: the whole lab against a bare MLX loop over the same batches.

A run of the lab with supervisor, probe, records, cache clearing and W&B offline; and, from its
config.yaml, a hand-written loop in a process of its own: batches made beforehand, value_and_grad
over the same loss, clipping, AdamW, mx.eval, nothing else. Both are interleaved, a second each; the
time in which a side is stopped does not count. Compared is the wall time from step to step, not
step_seconds, so that all that the lab does between steps counts. Each step is paired with the same
step of the other side; a round's figure is the median of its pairs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.interleave import interleave
from benchmarks.report import Figure, Goal, Report
from benchmarks.workspace import (
    RUNS,
    Options,
    Run,
    Workspace,
    open_data_of,
    ratios,
    say,
    smollm2,
    undisturbed,
)

Pair = tuple[Run, list[float], list[float]]  # the lab's run; the bare loop's seconds and losses

ROUNDS = 3
ROUNDING = 1e-5  # the lab sums a frozen head's losses slice by slice
GOAL = Goal(1.03)


def measure(workspace: Workspace, options: Options) -> Report:
    """Both models; the second one takes a twentieth of the steps.

    The first steps of either are left out: memory is allocated and W&B starts during them.
    """
    steps, rounds = options.steps or 300, options.rounds or ROUNDS
    few = max(steps // 20, 10)
    lora = [*smollm2(length=256), *undisturbed(few)]
    return Report(
        [
            *_figures("default", _pairs(workspace, undisturbed(steps), rounds), steps // 4),
            *_figures("SmolLM2 LoRA", _pairs(workspace, lora, rounds), few // 4),
        ]
    )


def _pairs(workspace: Workspace, overrides: list[str], rounds: int) -> list[Pair]:
    """Run both sides interleaved, once a round."""
    pairs: list[Pair] = []
    for number in range(rounds):
        say(f"{overrides[0]}: round {number + 1} of {rounds}")
        lab = workspace.start_train(*overrides)
        while not (config := list(lab.folder.glob(f"{RUNS}/*/*/config.yaml"))):
            if lab.process.poll() is not None:
                workspace.run_of(lab)  # raises, with the output
            time.sleep(0.01)
        bare = workspace.start_child("bare_loop", *config)
        interleave(lab, bare)
        answer = workspace.answer_of(bare)
        pairs.append((workspace.run_of(lab), bare.intervals(answer["times"]), answer["losses"]))
    return pairs


def _figures(model: str, pairs: list[Pair], skipped: int) -> list[Figure]:
    both = [(run.cycles()[skipped:], bare[skipped:]) for run, bare, _ in pairs]
    apart = [
        max(abs((a or 0.0) - b) for a, b in zip(run.column("loss"), losses, strict=True))
        for run, _, losses in pairs
    ]
    steps = [median(ratios(*pair)) for pair in both]
    return [
        Figure(f"{model}: step, lab / bare loop", steps, "", GOAL),
        Figure(f"{model}: sum of all steps, lab / bare loop", [sum(a) / sum(b) for a, b in both]),
        Figure(f"{model}: step of the bare loop", [1000 * median(b) for _, b in both], "ms"),
        Figure(f"{model}: largest difference of a loss", apart, "", Goal(ROUNDING)),
    ]


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Train the bare loop from CONFIG.

    Returns:
        ``times``, the end of each step in seconds since the epoch, and ``losses``.
    """
    from lab.config.keys import Config
    from lab.machine.blas import preload_blas

    config = Config.load(Path(arguments[0]))
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(config.worker.threads)
    preload_blas()
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim

    from lab.train.loss import cross_entropy
    from lab.train.model import build_model

    data, folder = open_data_of(config)
    vocab_size = data.train_samples.tokenizer.vocab_size
    batches = [data.train.step(step)[0] for step in range(1, config.train.steps + 1)]

    mx.random.seed(config.seed)
    model = build_model(
        *(config.model, config.adapter),
        folder=folder,
        vocab_size=vocab_size,
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
        hidden = model.model(inputs)  # type: ignore[operator]
        hidden = hidden.reshape(-1, hidden.shape[-1])[rows][None]
        logits = model.model.embed_tokens.as_linear(hidden)[0]  # type: ignore[union-attr]
        return (cross_entropy(logits, targets) * weights).sum() / total

    step = nn.value_and_grad(model, loss)
    times, losses = [], []
    for batch in batches:
        host = (batch.inputs, batch.rows, batch.targets, batch.weights)
        arrays = [mx.array(a) for a in host]  # type: ignore[arg-type]
        value, grads = step(*arrays, mx.array(batch.num_tokens, mx.float32))
        grads, _ = optim.clip_grad_norm(grads, config.train.max_grad_norm)
        optimizer.update(model, grads)
        mx.eval(value, model.trainable_parameters(), optimizer.state)
        losses.append(value.item())
        times.append(time.time())
    return {"times": times, "losses": losses}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
