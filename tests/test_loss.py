"""Our cross-entropy against MLX's own: value and gradient."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.loss import cross_entropy


@settings(deadline=None)
@given(
    rows=st.integers(1, 9),
    vocabulary=st.integers(1, 40),
    scale=st.sampled_from([1e-3, 1.0, 30.0, 1e4]),
    seed=st.integers(0, 2**32 - 1),
)
def test_value_and_gradient_are_those_of_mlx(
    rows: int, vocabulary: int, scale: float, seed: int
) -> None:
    mx.random.seed(seed)
    logits = mx.random.normal((rows, vocabulary)) * scale
    targets = mx.random.randint(0, vocabulary, (rows,))
    weights = mx.random.uniform(shape=(rows,))

    def plain(logits: mx.array) -> mx.array:
        return (nn.losses.cross_entropy(logits, targets) * weights).sum()

    def ours(logits: mx.array) -> mx.array:
        return (cross_entropy(logits, targets) * weights).sum()

    for found, expected in zip(
        mx.value_and_grad(ours)(logits), mx.value_and_grad(plain)(logits), strict=True
    ):
        assert mx.allclose(found, expected, rtol=1e-5, atol=1e-5 * max(scale, 1))


def test_low_precision_logits_lose_nothing_more() -> None:
    logits = (mx.random.normal((64, 500)) * 4).astype(mx.bfloat16)
    targets = mx.random.randint(0, 500, (64,))
    exact = nn.losses.cross_entropy(logits.astype(mx.float32), targets)
    assert mx.allclose(cross_entropy(logits, targets), exact, rtol=1e-6, atol=1e-6)
    grad = mx.grad(lambda x: cross_entropy(x, targets).sum())(logits)
    assert grad.dtype == mx.bfloat16


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_stays_so(value: float) -> None:
    assert not mx.isfinite(cross_entropy(mx.array([[value, 0.0]]), mx.array([1]))).item()
