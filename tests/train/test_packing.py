"""Packed rows: each sample's loss and gradient as if it were alone."""

from __future__ import annotations

import random
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from lab.config.schema import ConfigError
from lab.data.batches import Batch, Sample, Shape, collate
from lab.train.model import build_model
from lab.train.packing import check_packs
from lab.train.step import arrays_of, checkpoint_layers, loss_of, total_tokens
from tests.architectures import CONFIGS, make_folder
from tests.runs import config_of

REFUSED = {  # learned positions, a memory of its own, an attention that writes its own cache
    "gpt2", "deepseek_v3", "mamba", "lfm2", "granitemoehybrid", "qwen3_next", "qwen3_5",
}  # fmt: skip
PACKS = sorted(set(CONFIGS) - REFUSED)
DRAW = random.Random(0)
SAMPLES: list[Sample] = [
    ([DRAW.randrange(256) for _ in range(length)], prompt)
    for length, prompt in ((50, 20), (13, 0), (36, 30), (2, 0), (41, 1))
]
ROWS = [[SAMPLES[0], SAMPLES[1]], [SAMPLES[2], SAMPLES[3]], [SAMPLES[4]]]


def batch_of(rows: list[list[Sample]], *, packs: bool) -> Batch:
    shape = Shape(batch_size=len(rows), accumulation=1, max_length=64, pad_multiple=64, packs=packs)
    return collate(rows, shape)


def built(model_type: str, folder: Path, dtype: mx.Dtype = mx.float32) -> nn.Module:
    make_folder(model_type, folder)
    config = config_of("model=local", f"model.path={folder}", "adapter=full")
    return build_model(config.model, config.adapter, folder=folder, vocab_size=0, dtype=dtype)


def loss_and_gradient(model: nn.Module, batches: list[Batch], total: mx.array):
    loss_and_grad = nn.value_and_grad(model, loss_of(model))
    loss, summed = mx.array(0.0), None
    for batch in batches:
        part, grads = loss_and_grad(*arrays_of(batch), total)
        flat = tree_flatten(grads, destination={})
        summed = flat if summed is None else {name: summed[name] + flat[name] for name in flat}
        loss = loss + part
    assert summed is not None
    return loss.item(), summed


@pytest.mark.parametrize("model_type", PACKS)
def test_a_packed_sample_learns_as_if_alone(model_type: str, tmp_path: Path) -> None:
    model = built(model_type, tmp_path)
    packed = batch_of(ROWS, packs=True)
    alone = [batch_of([[sample]], packs=False) for sample in SAMPLES]
    total = total_tokens([packed])
    assert packed.num_tokens == sum(batch.num_tokens for batch in alone)
    expected, expected_grads = loss_and_gradient(model, alone, total)
    found, found_grads = loss_and_gradient(model, [packed], total)
    assert found == pytest.approx(expected, rel=1e-6)
    largest = max(mx.abs(grad).max().item() for grad in expected_grads.values())
    for name, grad in expected_grads.items():
        assert mx.allclose(grad, found_grads[name], rtol=1e-4, atol=1e-5 * largest), name
    check_packs(model, model_type)


def test_in_bfloat16_it_is_as_alone_within_its_precision(tmp_path: Path) -> None:
    model = built("llama", tmp_path, mx.bfloat16)
    packed, alone = batch_of(ROWS, packs=True), [batch_of([[s]], packs=False) for s in SAMPLES]
    total = total_tokens([packed])
    expected, _ = loss_and_gradient(model, alone, total)
    assert loss_and_gradient(model, [packed], total)[0] == pytest.approx(expected, rel=2**-8)
    check_packs(model, "llama")


@pytest.mark.parametrize("how", ["recomputed", "compiled"])
def test_recomputed_and_compiled_it_is_the_same(how: str, tmp_path: Path) -> None:
    model, packed = built("llama", tmp_path), batch_of(ROWS, packs=True)
    total = total_tokens([packed])
    expected = loss_and_gradient(model, [packed], total)
    if how == "recomputed":
        checkpoint_layers(model)
        found, grads = loss_and_gradient(model, [packed], total)
        for name, grad in expected[1].items():
            assert mx.allclose(grad, grads[name], rtol=1e-5, atol=1e-7), name
    else:
        loss = mx.compile(loss_of(model), inputs=model.state, outputs=model.state)
        found = loss(*arrays_of(packed), total).item()
    assert found == pytest.approx(expected[0], rel=1e-6)


@pytest.mark.parametrize("model_type", sorted(REFUSED))
def test_a_model_that_would_mix_samples_is_refused(model_type: str, tmp_path: Path) -> None:
    model = built(model_type, tmp_path)
    before = mx.random.state[0].tolist()
    with pytest.raises(ConfigError, match=r"train\.packing=true: cannot act with model=here"):
        check_packs(model, "here")
    assert mx.random.state[0].tolist() == before
    assert model.training
    assert model(mx.array([[1, 2]])).shape[:2] == (1, 2)
