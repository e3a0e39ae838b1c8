"""The train step: the same loss and gradient however it is computed."""

from __future__ import annotations

import random

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten, tree_map

from lab.data.batches import Shape, collate
from lab.train import loss, optimizers, step
from lab.train.model import build_model
from tests.runs import config_of

VOCABULARY = 288


def build(*overrides: str):
    """A tiny model with its optimizer, step and validation loss."""
    config = config_of(*overrides)
    mx.random.seed(3)
    model = build_model(
        config.model, config.adapter, folder=None, vocab_size=VOCABULARY, dtype=mx.float32
    )
    optimizer = optimizers.build_optimizer(config.optimizer, steps=config.train.steps)
    optimizer.init(model.trainable_parameters())
    if config.train.grad_checkpoint:
        step.checkpoint_layers(model)
    built = step.build_train_step(
        model, optimizer, max_grad_norm=config.train.max_grad_norm, compiled=False
    )
    return model, *built


def batches_of(samples: list, size: int) -> list:
    shape = Shape(batch_size=size, accumulation=1, max_length=64, pad_multiple=8)
    return [
        collate([[s] for s in samples[i : i + size]], shape) for i in range(0, len(samples), size)
    ]


@pytest.fixture
def samples() -> list:
    draw = random.Random(0)
    lengths = [(40, 30), (20, 5), (64, 60), (33, 0)]
    return [([draw.randrange(256) for _ in range(n)], prompt) for n, prompt in lengths]


def arrays_of(batch) -> tuple[mx.array, ...]:
    return mx.array(batch.inputs), mx.array(batch.rows), mx.array(batch.targets)


def all_logits_loss(model: nn.Module, batch) -> float:
    """The plain way: every logit, then a mask."""
    logits = model(mx.array(batch.inputs)).reshape(-1, VOCABULARY)
    picked = logits[mx.array(batch.rows)]
    losses = nn.losses.cross_entropy(picked, mx.array(batch.targets)) * mx.array(batch.weights)
    return (losses.sum() / batch.num_tokens).item()


def test_logits_of_predicted_tokens_give_the_loss_of_all_logits(samples: list) -> None:
    model, train_step, _ = build("adapter=full")
    [batch] = batches_of(samples, 4)
    expected = all_logits_loss(model, batch)
    assert train_step([batch]).evaluate()[0] == pytest.approx(expected, rel=1e-6)


def test_only_predicted_positions_reach_the_head(
    samples: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _, _ = build("adapter=full")
    [batch] = batches_of(samples, 4)
    seen, head = [], nn.Embedding.as_linear

    def watch(embedding: nn.Embedding, hidden: mx.array) -> mx.array:
        seen.append(hidden.shape[-2])
        return head(embedding, hidden)

    monkeypatch.setattr(nn.Embedding, "as_linear", watch)  # the tiny model's embedding is tied
    assert step.PredictedLosses(model)(*arrays_of(batch)).shape == (len(batch.rows),)
    assert seen == [len(batch.rows)]
    assert len(batch.rows) < batch.cells


def test_a_narrowed_model_still_answers_whole(samples: list) -> None:
    model, _, _ = build("adapter=full")
    [batch] = batches_of(samples, 4)
    assert model(mx.array(batch.inputs)).shape == (*batch.inputs.shape, VOCABULARY)


def test_a_model_without_a_backbone_gives_the_same_losses(samples: list) -> None:
    model, _, _ = build("adapter=full")
    [batch] = batches_of(samples, 4)

    class Opaque(nn.Module):
        layers = ()

        def __call__(self, inputs: mx.array) -> mx.array:
            return model(inputs)

    expected = step.PredictedLosses(model)(*arrays_of(batch))
    found = step.PredictedLosses(Opaque())(*arrays_of(batch))
    assert mx.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_slices_of_a_frozen_head_change_nothing(
    samples: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    for size in (loss.SLICE_BYTES, 16 * 4 * VOCABULARY):  # all rows at once, 16 at a time
        monkeypatch.setattr(loss, "SLICE_BYTES", size)
        _, train_step, evaluate = build("adapter=lora", "optimizer=sgd")
        batches = batches_of(samples, 2)
        figures.append([evaluate(batches), *train_step(batches).evaluate(), evaluate(batches)])
    assert figures[1] == pytest.approx(figures[0], rel=1e-6)


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_accumulation_gives_what_one_large_batch_does(samples: list, adapter: str) -> None:
    results, weights = [], []
    for size in (4, 2, 1):
        model, train_step, _ = build(f"adapter={adapter}", "optimizer=sgd")
        results.append(train_step(batches_of(samples, size)).evaluate())
        weights.append(mx.concatenate([w.flatten() for _, w in tree_flatten(model.parameters())]))
    assert results[1] == pytest.approx(results[0], rel=1e-5)
    assert results[2] == pytest.approx(results[0], rel=1e-5)
    assert mx.allclose(weights[0], weights[2], rtol=1e-4, atol=1e-6)


def test_gradient_checkpointing_changes_memory_only_and_this_model_only(samples: list) -> None:
    plain, plain_step, _ = build("adapter=full")
    saving, saving_step, _ = build("adapter=full", "train.grad_checkpoint=true")
    batches = batches_of(samples, 4)
    assert saving_step(batches).evaluate() == pytest.approx(
        plain_step(batches).evaluate(), rel=1e-6
    )
    assert type(saving.layers[0]) is not type(plain.layers[0])
    assert type(plain.layers[0]).__call__ is type(build("adapter=full")[0].layers[0]).__call__


def test_a_batch_without_a_completion_token_is_no_nan(samples: list) -> None:
    model, train_step, _ = build("adapter=lora", "optimizer.weight_decay=0")
    before = [mx.array(w) for _, w in tree_flatten(model.trainable_parameters())]
    nothing = [(ids, len(ids)) for ids, _ in samples]
    assert train_step(batches_of(nothing, 4)).evaluate() == (0.0, 0.0)
    after = [w for _, w in tree_flatten(model.trainable_parameters())]
    assert all(mx.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_validation_is_the_mean_over_tokens_and_changes_nothing(samples: list) -> None:
    model, _, evaluate = build("adapter=lora", "adapter.dropout=0.5")
    whole, halves = batches_of(samples, 4), batches_of(samples, 2)
    assert evaluate(whole) == evaluate(whole) == pytest.approx(evaluate(halves), rel=1e-6)
    assert model.training


def test_clipping_limits_the_update(samples: list) -> None:
    def moved(max_norm: float) -> float:
        model, train_step, _ = build(
            "adapter=full", "optimizer=sgd", "optimizer.momentum=0", "optimizer.weight_decay=0",
            "optimizer.learning_rate=1.0", f"train.max_grad_norm={max_norm}",
        )  # fmt: skip
        before = mx.concatenate([w.flatten() for _, w in tree_flatten(model.parameters())])
        _, norm = train_step(batches_of(samples, 4)).evaluate()
        after = mx.concatenate([w.flatten() for _, w in tree_flatten(model.parameters())])
        assert norm > 0.5
        return mx.linalg.norm(after - before).item()

    assert moved(0.01) == pytest.approx(0.01, rel=1e-3)
    assert moved(0) > 0.5


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["optimizer.schedule=constant"], [1.0] * 10),
        (["optimizer.schedule=constant", "optimizer.warmup_steps=4"], [0.25, 0.5, 0.75] + [1] * 7),
        (
            ["optimizer.schedule=linear", "optimizer.final_fraction=0.0"],
            [1 - i / 10 for i in range(10)],
        ),
        (["optimizer.schedule=constant", "optimizer.warmup_steps=1"], [1.0] * 10),
    ],
)
def test_schedules(overrides: list[str], expected: list[float]) -> None:
    config = config_of("train.steps=10", "optimizer=sgd", "optimizer.learning_rate=1.0", *overrides)
    optimizer = optimizers.build_optimizer(config.optimizer, steps=10)
    weights = {"w": mx.zeros(2)}
    optimizer.init(weights)
    rates = []
    for _ in range(10):
        optimizer.apply_gradients({"w": mx.ones(2)}, weights)
        rates.append(optimizers.learning_rate(optimizer))
    assert rates == pytest.approx(expected)


def test_bias_correction_is_on_by_default() -> None:
    """Without it Adam's first step would be tiny; with it, it is the learning rate."""
    config = config_of(
        "optimizer=adam", "optimizer.learning_rate=0.1", "optimizer.schedule=constant"
    )
    optimizer = optimizers.build_optimizer(config.optimizer, steps=10)
    weights = {"w": mx.zeros(2)}
    optimizer.init(weights)
    moved = optimizer.apply_gradients({"w": mx.ones(2)}, weights)["w"]
    assert moved.tolist() == pytest.approx([-0.1, -0.1], rel=1e-3)


@pytest.mark.parametrize("name", ["adamw", "adam", "muon", "adafactor", "sgd"])
@pytest.mark.parametrize("scale", [0.0, 1e-7, 1e-4, 1.0])
def test_no_optimizer_divides_by_an_eps_that_is_zero_in_float16(name: str, scale: float) -> None:
    """Squares of gradients below 2.4e-4 are 0 in float16."""
    config = config_of(f"optimizer={name}", "optimizer.warmup_steps=0")
    optimizer = optimizers.build_optimizer(config.optimizer, steps=4, dtype=mx.float16)
    model = nn.Linear(8, 8)
    model.apply(lambda array: array.astype(mx.float16))
    for _ in range(3):
        optimizer.update(model, tree_map(lambda a: mx.full(a.shape, scale, a.dtype), dict(model)))
        mx.eval(model.parameters(), optimizer.state)
    assert all(mx.isfinite(array).all() for _, array in tree_flatten(model.parameters()))
    assert (optimizers.eps_note(config.optimizer, mx.float16) is None) == (name == "sgd")
    assert optimizers.eps_note(config.optimizer, mx.bfloat16) is None
