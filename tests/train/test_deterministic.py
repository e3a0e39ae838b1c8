"""The deterministic embedding: same rows and same gradient, however often a token repeats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.config.schema import ConfigError
from lab.train.deterministic import (
    check_experts,
    deterministic_embedding,
    make_embedding_gradients_deterministic,
)
from lab.train.model import build_model
from lab.train.model_files import model_of_type, model_without_weights
from tests.architectures import CONFIGS, make_folder
from tests.runs import config_of, start


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_the_gradient_is_that_of_a_plain_lookup(ids: list[int], seed: int) -> None:
    mx.random.seed(seed)
    weight, out = mx.random.normal((7, 4)), mx.random.normal((len(ids), 4))
    tokens = mx.array(ids)
    plain = mx.grad(lambda w: (w[tokens] * out).sum())(weight)
    ours = mx.grad(lambda w: (deterministic_embedding(w, tokens) * out).sum())(weight)
    assert mx.allclose(ours, plain, rtol=1e-5, atol=1e-5)
    assert mx.array_equal(deterministic_embedding(weight, tokens), weight[tokens])


def test_tied_weights_keep_both_parts_of_their_gradient() -> None:
    def loss(model: nn.Module, ids: mx.array) -> mx.array:
        return model.as_linear(model(ids)).square().sum()

    ids = mx.array([[1, 2, 2], [3, 1, 1]])
    gradients = []
    for prepare in (lambda _: None, make_embedding_gradients_deterministic):
        mx.random.seed(0)
        model = nn.Embedding(5, 4)
        prepare(model)
        gradients.append(nn.value_and_grad(model, loss)(model, ids)[1]["weight"])
    assert mx.allclose(*gradients, rtol=1e-5, atol=1e-5)


def test_frozen_embeddings_are_left_alone() -> None:
    model = nn.Embedding(5, 4)
    model.freeze()
    make_embedding_gradients_deterministic(model)
    assert type(model) is nn.Embedding


def test_an_adapter_on_an_embedding_is_refused() -> None:
    class LoRAEmbedding(nn.Module):
        pass

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens = LoRAEmbedding()

    with pytest.raises(ConfigError, match=r"adapter\.targets=embed_tokens"):
        make_embedding_gradients_deterministic(Model())


# --- Experts ------------------------------------------------------------------------------------

EXPERTS = ("mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss", "granitemoehybrid")


@pytest.mark.parametrize("model_type", EXPERTS)
def test_experts_on_a_gpu_are_refused_with_the_way_out(model_type: str) -> None:
    model = model_of_type({**CONFIGS[model_type], "model_type": model_type})
    train = config_of().train
    with pytest.raises(ConfigError, match=r"train\.deterministic=true: .*deterministic=false"):
        check_experts(model, train, on_gpu=True)
    check_experts(model, replace(train, deterministic=False), on_gpu=True)
    check_experts(model, train, on_gpu=False)  # a CPU adds in one order


@pytest.mark.parametrize("model_type", EXPERTS)
def test_experts_are_found_before_a_weight_is_read(tmp_path: Path, model_type: str) -> None:
    folder = make_folder(model_type, tmp_path)
    weights_that_cannot_be_read(folder)
    model, active = model_without_weights(folder), mx.get_active_memory()
    with pytest.raises(ConfigError, match=r"train\.deterministic"):
        check_experts(model, config_of().train, on_gpu=True)
    mx.eval(model.parameters())
    assert mx.get_active_memory() > active  # until then nothing had been made


@pytest.mark.gpu
def test_a_run_of_experts_on_a_gpu_is_refused_before_a_weight_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_folder("mixtral", tmp_path / "model")
    weights_that_cannot_be_read(folder)
    run = start(tmp_path / "run", "model=local", f"model.path={folder}", "adapter.rank=4")
    assert run.result.exit_code == 2
    assert "train.deterministic=true: " in caplog.text


def weights_that_cannot_be_read(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        file.write_bytes(b"no weights")


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_experts_are_found_under_adapters_and_quantised(tmp_path: Path, kind: str) -> None:
    config = config_of(f"adapter={kind}", "adapter.rank=4", "adapter.num_layers=3",
                       "adapter.targets=[gate_proj]")  # fmt: skip
    folder = make_folder("qwen3_moe", tmp_path)
    model = build_model(
        config.model, config.adapter, folder=folder, vocab_size=0, dtype=mx.bfloat16
    )
    with pytest.raises(ConfigError, match=r"train\.deterministic"):
        check_experts(model, config.train, on_gpu=True)
    in_half = replace(config.train, dtype="bfloat16")
    if kind == "qlora":
        check_experts(model, in_half, on_gpu=False)  # quantised, they compute in any type
    else:
        with pytest.raises(ConfigError, match=r"train\.dtype=bfloat16: must be float32"):
            check_experts(model, in_half, on_gpu=False)


def test_a_dense_model_is_never_refused() -> None:
    model = model_of_type({**CONFIGS["qwen3"], "model_type": "qwen3"})
    train = replace(config_of().train, dtype="bfloat16", deterministic=True)
    check_experts(model, train, on_gpu=True)
    check_experts(model, train, on_gpu=False)


@pytest.mark.skipif(mx.is_available(mx.gpu), reason="it is a CPU's limit")
@pytest.mark.parametrize("trainer", ["lab", "mlx_lm"])
def test_a_run_of_experts_in_half_precision_is_one_line_on_a_cpu(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, trainer: str
) -> None:
    folder = make_folder("mixtral", tmp_path / "model")
    run = start(
        tmp_path / "run", "model=local", f"model.path={folder}", "adapter.rank=4",
        "train.dtype=bfloat16", f"trainer={trainer}",
    )  # fmt: skip
    assert run.result.exit_code == 2
    [line] = [r.message for r in caplog.records if "train.dtype" in r.message]
    assert line == (
        "train.dtype=bfloat16: must be float32 for a model of experts on a CPU, "
        "or choose adapter=qlora"
    )
    assert not run.folder.exists()
