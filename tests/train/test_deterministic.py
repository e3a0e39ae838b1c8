"""The deterministic embedding: same rows and same gradient, however often a token repeats."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.config.schema import ConfigError
from lab.train.deterministic import deterministic_embedding, make_embedding_gradients_deterministic


@settings(deadline=None)
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
